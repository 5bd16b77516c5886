-- Claims and outcomes of many calls are written by one statement, as the worker's role, which sees
-- and writes the rows of the workspaces that the statement names and no others. The policies ask for
-- these in a query of their own, which Postgres runs once per statement and not once per row.
alter table executions
  -- Names the request that holds the row, so that one whose claim got no answer knows its own again.
  add column claim_id uuid,
  -- Whether a sending before the last one may have taken effect. A row that was given back says with
  -- it all that is known; one whose sender vanished may have been sent besides.
  add column maybe_applied boolean not null default false,
  -- When its sender was asked to stop.
  add column cancel_time timestamptz;
-- What was given back before could have been sent.
update executions set maybe_applied = true where state = 'in_flight';
-- Every row is updated once, with its outcome: room in its page spares an index entry.
alter table executions set (fillfactor = 60);

grant update (claim_id, maybe_applied, cancel_time) on executions to :app_role;
create policy executions_of_workspaces on executions to :worker_role
  using (workspace_id = any ((select runwarden.current_workspaces())::uuid[]))
  with check (workspace_id = any ((select runwarden.current_workspaces())::uuid[]));
grant select, insert on executions to :worker_role;
grant update (state, result, error, lease_until, end_time, maybe_applied)
  on executions to :worker_role;

-- The highest lease epoch seen of each run that had more than one owner: its first owner has epoch 1,
-- and a run without a row has had no other. Written only when the epoch rises.
create policy run_epochs_of_workspaces on run_epochs to :worker_role
  using (workspace_id = any ((select runwarden.current_workspaces())::uuid[]))
  with check (workspace_id = any ((select runwarden.current_workspaces())::uuid[]));
grant select, insert, update on run_epochs to :worker_role;
