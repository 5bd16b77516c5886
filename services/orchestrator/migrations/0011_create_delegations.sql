-- Who may answer approvals for whom, and until when. The primary key serves the list, newest first.
create table delegations (
  workspace_id uuid not null,
  delegation_id uuid not null,
  delegator_id text not null,
  delegate_id text not null,
  comment text not null,
  expire_time timestamptz not null,
  revoke_time timestamptz,
  revoker_id text not null default '',
  create_time timestamptz not null default now(),
  primary key (workspace_id, delegation_id),
  constraint delegations_other_check check (delegator_id <> delegate_id),
  -- What approval_answers_delegation_fkey points at: an answer names the delegation's own two.
  constraint delegations_persons_key
    unique (workspace_id, delegation_id, delegate_id, delegator_id)
);
alter table delegations enable row level security;
alter table delegations force row level security;
create policy delegations_of_workspace on delegations to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy delegations_of_workspaces on delegations to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
-- A delegation is written once; all that can happen to it is its end.
grant select, insert, update (revoke_time, revoker_id) on delegations to :app_role;
grant select on delegations to :worker_role;
