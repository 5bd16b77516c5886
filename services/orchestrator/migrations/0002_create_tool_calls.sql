-- Verdicts on the arguments of calls, by the digest of what was judged: what the database itself
-- must hold before it lets a call execute. The primary key makes the newest verdict on a digest the
-- only one.
create table verdicts (
  workspace_id uuid not null,
  run_id uuid not null,
  step_index integer not null,
  digest text not null,
  verdict text not null check (verdict in ('allowed', 'flagged', 'blocked')),
  decision_id text not null,
  policy_version text not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, run_id, step_index, digest),
  foreign key (workspace_id, run_id) references runs,
  -- What tool_calls_verdict_fkey points at.
  constraint verdicts_verdict_key unique (workspace_id, run_id, step_index, digest, verdict)
);
alter table verdicts enable row level security;
alter table verdicts force row level security;
create policy verdicts_of_workspace on verdicts to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy verdicts_of_workspaces on verdicts to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert, update on verdicts to :app_role, :worker_role;

-- Questions to people. The rule about who may answer is part of the row.
create table approvals (
  workspace_id uuid not null,
  approval_id uuid not null,
  run_id uuid not null,
  step_index integer not null,
  tool_call_id uuid not null,
  tool text not null,
  tool_version text not null,
  definition_digest text not null,
  risk_class text not null,
  title text not null,
  arguments text not null,
  verdict text not null check (verdict in ('allowed', 'flagged')),
  policy_version text not null,
  matched_rules text[] not null,
  requester_id text not null,
  digest text not null,
  state text not null check (state in ('pending', 'approved', 'rejected', 'expired', 'cancelled',
    'superseded')),
  approver_role smallint not null,
  distinct_from_requester boolean not null,
  decider_id text not null default '',
  comment text not null default '',
  expire_time timestamptz not null,
  decide_time timestamptz,
  consume_time timestamptz,
  is_consumed boolean not null generated always as (consume_time is not null) stored,
  create_time timestamptz not null default now(),
  primary key (workspace_id, approval_id),
  foreign key (workspace_id, run_id) references runs,
  -- Only a yes can be used, and what tool_calls_approval_fkey points at.
  constraint approvals_consumed_check check (consume_time is null or state = 'approved'),
  constraint approvals_consumed_key unique (workspace_id, run_id, step_index, digest, is_consumed)
);
-- At most one question per call is open.
create unique index approvals_pending_key on approvals (workspace_id, run_id, step_index)
  where state = 'pending';
-- Serves ListApprovals by state.
create index approvals_state_idx on approvals (workspace_id, state, approval_id desc);
alter table approvals enable row level security;
alter table approvals force row level security;
create policy approvals_of_workspace on approvals to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy approvals_of_workspaces on approvals to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
-- What was asked is written once: only the answer and its use are added.
grant select, insert, update (state, decider_id, comment, decide_time, consume_time)
  on approvals to :app_role, :worker_role;

-- Calls: one row per step, written when the run is. The primary key serves the run's own reads.
create table tool_calls (
  workspace_id uuid not null,
  run_id uuid not null,
  step_index integer not null,
  tool_call_id uuid not null,
  idempotency_key text not null,
  tool text not null,
  tool_version text not null,
  definition_digest text not null,
  risk_class text not null check (risk_class in ('low', 'medium', 'high')),
  effect text not null check (effect in ('read', 'keyed', 'unsafe')),
  title text not null,
  on_error text not null check (on_error in ('stop', 'continue')),
  state text not null check (state in ('proposed', 'moderating', 'awaiting_approval', 'ready',
    'executing', 'outcome_unknown', 'succeeded', 'failed', 'denied', 'expired', 'cancelled')),
  reason text not null default '',
  policy_denial text,
  planned_arguments text not null,
  arguments text,
  arguments_digest text,
  provenance integer[] not null default '{}',
  verdict text,
  decision_id text not null default '',
  policy_version text not null default '',
  matched_rules text[] not null default '{}',
  moderation_outcome text check (moderation_outcome in ('allowed', 'flagged', 'blocked')),
  approval_id uuid,
  approval_digest text,
  approval_consumed boolean,
  attempts integer not null default 0,
  result text,
  error text,
  is_withheld boolean not null default false,
  settler_id text not null default '',
  trace_id text not null default '',
  revision bigint not null default 1,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  start_time timestamptz,
  end_time timestamptz,
  primary key (workspace_id, run_id, step_index),
  foreign key (workspace_id, run_id) references runs,
  constraint tool_calls_idempotency_key unique (workspace_id, idempotency_key),
  -- A verdict, once stored, is one that moderation gave on exactly these arguments.
  constraint tool_calls_verdict_fkey
    foreign key (workspace_id, run_id, step_index, arguments_digest, verdict)
    references verdicts (workspace_id, run_id, step_index, digest, verdict),
  -- An approval, once used, is one that was given on exactly this digest.
  constraint tool_calls_approval_fkey
    foreign key (workspace_id, run_id, step_index, approval_digest, approval_consumed)
    references approvals (workspace_id, run_id, step_index, digest, is_consumed),
  -- Nothing executes, or has executed, that moderation has not let through.
  constraint tool_calls_verdict_check check (
    state not in ('executing', 'outcome_unknown', 'succeeded', 'failed')
    or (arguments is not null and arguments_digest is not null
      and verdict is not null and verdict in ('allowed', 'flagged'))),
  -- Nothing risky or doubtful executes, or has executed, without an approval that was used for it.
  constraint tool_calls_approval_check check (
    state not in ('executing', 'outcome_unknown', 'succeeded', 'failed')
    or (risk_class <> 'high' and (verdict = 'allowed' or effect = 'read'))
    or (approval_digest is not null and approval_consumed is true))
);
-- Serves GetToolCall and the list of all calls, newest first.
create unique index tool_calls_id_key on tool_calls (workspace_id, tool_call_id);
alter table tool_calls enable row level security;
alter table tool_calls force row level security;
create policy tool_calls_of_workspace on tool_calls to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy tool_calls_of_workspaces on tool_calls to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
-- What a call is, and what it may do, is written once.
grant select, insert, update (state, reason, policy_denial, arguments, arguments_digest, provenance,
  verdict, decision_id, policy_version, matched_rules, moderation_outcome, approval_id,
  approval_digest, approval_consumed, attempts, result, error, is_withheld, settler_id, trace_id,
  revision, update_time, start_time, end_time)
  on tool_calls to :app_role, :worker_role;

-- A terminal state never changes, whatever the code above thinks.
create function tool_calls_refuse_change() returns trigger language plpgsql as $$
begin
  raise exception 'tool call % is % and cannot become %', old.tool_call_id, old.state, new.state
    using errcode = 'integrity_constraint_violation';
end $$;
create trigger tool_calls_terminal_is_final before update of state on tool_calls
  for each row when (old.state in ('succeeded', 'failed', 'denied', 'expired', 'cancelled')
    and new.state is distinct from old.state)
  execute function tool_calls_refuse_change();
