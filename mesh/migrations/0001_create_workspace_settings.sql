-- The workspace of a transaction. Policies of tenant tables call these two functions and nothing
-- else, so that there is one place which says that an empty setting is no workspace: after a
-- transaction Postgres leaves '' behind, not null.
grant usage on schema runwarden to :app_role, :worker_role;
grant select on runwarden.migrations to :app_role, :worker_role;

create function runwarden.current_workspace() returns uuid
  language sql stable parallel safe
  return nullif(current_setting('runwarden.workspace_id', true), '')::uuid;

create function runwarden.current_workspaces() returns uuid[]
  language sql stable parallel safe
  return coalesce(nullif(current_setting('runwarden.workspace_ids', true), ''), '{}')::uuid[];

grant execute on function runwarden.current_workspace(), runwarden.current_workspaces()
  to :app_role, :worker_role;
