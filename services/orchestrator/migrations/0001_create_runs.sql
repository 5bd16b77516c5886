-- Runs. `epoch` fences: whoever took the run over last has the highest one, and every write of an
-- executor asks for its own. The primary key also serves the list of all runs, newest first.
create table runs (
  workspace_id uuid not null,
  run_id uuid not null,
  thread_id uuid not null,
  requester_id text not null,
  requester_role smallint not null,
  state text not null check (state in ('queued', 'running', 'requires_action', 'cancelling',
    'succeeded', 'failed', 'cancelled', 'expired')),
  reason text not null default '',
  policy_denial text,
  moderation_outcome text check (moderation_outcome in ('allowed', 'flagged', 'blocked')),
  plan_name text not null,
  plan text not null,
  input text not null,
  step_index integer not null default 0,
  step_count integer not null,
  epoch bigint not null,
  event_count bigint not null,
  revision bigint not null default 1,
  trace_id text not null,
  trace_parent text not null,
  request_id uuid not null,
  deadline timestamptz not null,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  end_time timestamptz,
  primary key (workspace_id, run_id),
  constraint runs_end_time_check check
    ((end_time is not null) = (state in ('succeeded', 'failed', 'cancelled', 'expired')))
);
-- Serves ListRuns by thread.
create index runs_thread_idx on runs (workspace_id, thread_id, run_id desc);
-- Serves ListRuns by state: live runs are few among many.
create index runs_state_idx on runs (workspace_id, state, run_id desc);
alter table runs enable row level security;
alter table runs force row level security;
create policy runs_of_workspace on runs to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy runs_of_workspaces on runs to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert, update on runs to :app_role, :worker_role;

-- A terminal state never changes, whatever the code above thinks.
create function runs_refuse_change() returns trigger language plpgsql as $$
begin
  raise exception 'run % is % and cannot become %', old.run_id, old.state, new.state
    using errcode = 'integrity_constraint_violation';
end $$;
create trigger runs_terminal_is_final before update of state on runs
  for each row when (old.end_time is not null and new.state is distinct from old.state)
  execute function runs_refuse_change();

-- History of runs: one encoded RunEvent per row, without sequence and time. The primary key serves
-- ListRunEvents and WatchRun.
create table run_events (
  workspace_id uuid not null,
  run_id uuid not null,
  sequence bigint not null,
  payload bytea not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, run_id, sequence),
  foreign key (workspace_id, run_id) references runs
);
alter table run_events enable row level security;
alter table run_events force row level security;
create policy run_events_of_workspace on run_events to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy run_events_of_workspaces on run_events to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert on run_events to :app_role, :worker_role;

-- Which live run is whose, and when it is due: ids and times only. An owned run is due when its
-- lease ends, a waiting one when what it waits for runs out, and at once when it was answered.
-- `crashes` counts owners that vanished while the run stood at `place`; `is_cancelled` tells the owner, wherever
-- it is, to stop the call that executes.
create table run_claims (
  workspace_id uuid not null,
  run_id uuid not null,
  owner uuid,
  epoch bigint not null,
  due_time timestamptz not null,
  crashes integer not null default 0,
  place text not null default '',
  is_cancelled boolean not null default false,
  primary key (workspace_id, run_id)
);
-- Serves the claim: the longest due first.
create index run_claims_due_idx on run_claims (due_time);
-- Serves the owner's look for cancelled runs of its own.
create index run_claims_cancelled_idx on run_claims (owner) where is_cancelled;
alter table run_claims enable row level security;
alter table run_claims force row level security;
create policy run_claims_of_workspace on run_claims to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy run_claims_of_worker on run_claims to :worker_role using (true) with check (true);
grant select, insert, update, delete on run_claims to :app_role, :worker_role;
