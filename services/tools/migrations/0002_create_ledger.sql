-- The effect ledger: one row per idempotency key, recorded before the call is sent. The primary key
-- is what lets only one of many equal requests send.
create table executions (
  workspace_id uuid not null,
  -- Full name of the tool.
  tool text not null,
  idempotency_key text not null,
  run_id uuid not null,
  step_index integer not null,
  -- Digest of everything that makes two requests the same.
  request_digest text not null,
  definition_digest text not null,
  effect text not null check (effect in ('read', 'keyed', 'unsafe')),
  state text not null check (state in ('in_flight', 'succeeded', 'failed', 'outcome_unknown')),
  result jsonb,
  error jsonb,
  -- The number of the last sending. Who sends again counts it up first, so that it also fences.
  attempts integer not null default 1,
  -- Until when somebody may still be waiting for the provider; past or null once nobody is.
  lease_until timestamptz,
  create_time timestamptz not null default now(),
  -- When the outcome was recorded, outcome_unknown included.
  end_time timestamptz,
  constraint executions_pkey primary key (workspace_id, tool, idempotency_key),
  check ((result is not null) = (state = 'succeeded')),
  check ((error is not null) = (state = 'failed')),
  check ((end_time is null) = (state = 'in_flight')),
  check (state <> 'outcome_unknown' or effect = 'unsafe')
);
alter table executions enable row level security;
alter table executions force row level security;
create policy executions_of_workspace on executions to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert on executions to :app_role;
grant update (state, result, error, attempts, lease_until, end_time) on executions to :app_role;

-- The highest lease epoch seen of each run: an owner with a lower one was overtaken. The primary key
-- serves the check, whose lock makes admissions of one run wait for each other.
create table run_epochs (
  workspace_id uuid not null,
  run_id uuid not null,
  epoch bigint not null,
  primary key (workspace_id, run_id)
);
alter table run_epochs enable row level security;
alter table run_epochs force row level security;
create policy run_epochs_of_workspace on run_epochs to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on run_epochs to :app_role;
