-- Whether a version may be used by whoever has not looked at it: the first of its tool, and those that
-- come from services of the deployment itself. Others are used where a workspace activated them.
alter table tool_versions add column trusted boolean not null default true;

-- What a workspace activated or rolled back, in order; the last row of a tool is in force. An empty
-- version is what the deployment uses. They never change: the role may add them, and nothing else.
-- The primary key serves the last row of each tool, and makes concurrent activations wait for each
-- other.
create table tool_activations (
  workspace_id uuid not null,
  provider text collate "C" not null,
  name text collate "C" not null,
  revision integer not null check (revision > 0),
  version text collate "C" not null,
  digest text not null,
  previous_version text collate "C" not null,
  previous_digest text not null,
  activator_id text not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, provider, name, revision),
  check ((version = '') = (digest = ''))
);
alter table tool_activations enable row level security;
alter table tool_activations force row level security;
create policy tool_activations_of_workspace on tool_activations to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy tool_activations_of_workspaces on tool_activations to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert on tool_activations to :app_role;
grant select on tool_activations to :worker_role;
