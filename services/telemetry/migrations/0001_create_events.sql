-- Every event, once. The record from which everything else here can be computed again, and what a
-- later roll-up reads.
create table events (
  workspace_id uuid not null,
  event_id uuid not null,
  occur_time timestamptz not null,
  receive_time timestamptz not null default now(),
  kind text not null check (kind in ('run', 'tool_call', 'moderation', 'approval', 'resource')),
  run_id uuid,
  trace_id text not null,
  step_index bigint,
  approval_id uuid,
  -- Name of the tool, subject of the verdict, or kind and id of the resource.
  name text not null,
  -- New state, verdict, or change.
  state text not null,
  reason text not null,
  millis bigint not null,
  is_unavailable boolean not null,
  primary key (workspace_id, event_id)
);
comment on table events is 'Every event once, by its id; columns that a kind does not have are empty';

alter table events enable row level security;
alter table events force row level security;
create policy events_of_workspace on events to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert on events to :app_role;

create index events_kind_idx on events (workspace_id, kind, occur_time) include (state, is_unavailable);
comment on index events_kind_idx is 'Verdicts of a window, for metrics; whether a workspace is idle';

-- Runs in their latest state. "Latest" is by (is_terminal, occur_time, event_id): terminal states
-- never change, so that a clock which lags cannot bring a run back to life.
create table run_states (
  workspace_id uuid not null,
  run_id uuid not null,
  state text not null,
  reason text not null,
  millis bigint not null,
  is_terminal boolean not null,
  occur_time timestamptz not null,
  event_id uuid not null,
  primary key (workspace_id, run_id)
);
comment on table run_states is 'The latest state of every run, with the event that told of it';

alter table run_states enable row level security;
alter table run_states force row level security;
create policy run_states_of_workspace on run_states to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on run_states to :app_role;

create index run_states_time_idx on run_states (workspace_id, occur_time)
  include (state, reason, millis);
comment on index run_states_time_idx is 'Runs of a window, for metrics';

-- Tool calls in their latest state.
create table tool_call_states (
  workspace_id uuid not null,
  run_id uuid not null,
  step_index bigint not null,
  tool text not null,
  state text not null,
  reason text not null,
  millis bigint not null,
  is_terminal boolean not null,
  occur_time timestamptz not null,
  event_id uuid not null,
  primary key (workspace_id, run_id, step_index)
);
comment on table tool_call_states is 'The latest state of every tool call, with the event that told of it';

alter table tool_call_states enable row level security;
alter table tool_call_states force row level security;
create policy tool_call_states_of_workspace on tool_call_states to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on tool_call_states to :app_role;

create index tool_call_states_time_idx on tool_call_states (workspace_id, occur_time)
  include (state);
comment on index tool_call_states_time_idx is 'Tool calls of a window, for metrics';
create index tool_call_states_unknown_idx on tool_call_states (workspace_id)
  where state = 'outcome_unknown';
comment on index tool_call_states_unknown_idx is 'Open unknown outcomes, whenever they became so';

-- Approvals in their latest state.
create table approval_states (
  workspace_id uuid not null,
  approval_id uuid not null,
  state text not null,
  millis bigint not null,
  is_terminal boolean not null,
  occur_time timestamptz not null,
  event_id uuid not null,
  primary key (workspace_id, approval_id)
);
comment on table approval_states is 'The latest state of every approval, with the event that told of it';

alter table approval_states enable row level security;
alter table approval_states force row level security;
create policy approval_states_of_workspace on approval_states to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on approval_states to :app_role;

create index approval_states_time_idx on approval_states (workspace_id, occur_time)
  include (state, millis);
comment on index approval_states_time_idx is 'Approvals of a window, for metrics';
