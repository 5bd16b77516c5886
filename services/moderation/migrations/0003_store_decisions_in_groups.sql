-- Decisions of many workspaces are stored by one statement, as the worker's role, which sees only the
-- workspaces that its transaction names. The policies read them in a subquery, which Postgres does
-- once for a statement; without it the setting is parsed again for every row.
create policy decisions_of_workspaces on decisions to :worker_role
  using (workspace_id = any ((select runwarden.current_workspaces())::uuid[]))
  with check (workspace_id = any ((select runwarden.current_workspaces())::uuid[]));
grant insert on decisions to :worker_role;

create policy active_policies_of_workspaces on active_policies to :worker_role
  using (workspace_id = any ((select runwarden.current_workspaces())::uuid[]))
  with check (workspace_id = any ((select runwarden.current_workspaces())::uuid[]));
grant select on active_policies to :worker_role;

-- A decision that was answered before it was stored is kept whatever became of its version since, and
-- says so. The service answers by a version for half a second at most after another one is active.
alter table decisions add column replaced_by text not null default '';
comment on column decisions.replaced_by is
  'The version that was active when the decision was stored, where it was not the one that decided';
