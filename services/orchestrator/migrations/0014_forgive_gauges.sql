-- Approvals that were brought in without triggers, as by a restore, are not counted: their end takes
-- nothing away that is not there.
create or replace function approvals_count_closed() returns trigger language plpgsql as $$
begin
  update approval_gauges set open = greatest(open - 1, 0) where workspace_id = new.workspace_id;
  return null;
end $$;
