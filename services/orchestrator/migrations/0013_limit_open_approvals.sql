-- How many questions are open in each workspace: one row that follows every approval that is asked
-- or ends, so that the limit holds whoever asks at the same moment. Serves the look before a
-- question is asked.
create table approval_gauges (
  workspace_id uuid not null primary key,
  open integer not null check (open >= 0)
) with (fillfactor = 50);
alter table approval_gauges enable row level security;
alter table approval_gauges force row level security;
create policy approval_gauges_of_workspace on approval_gauges to :app_role
  using (workspace_id = (select runwarden.current_workspace()))
  with check (workspace_id = (select runwarden.current_workspace()));
create policy approval_gauges_of_workspaces on approval_gauges to :worker_role
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
grant select, insert, update on approval_gauges to :app_role, :worker_role;

alter table approvals no force row level security;
alter table approval_gauges no force row level security;
insert into approval_gauges (workspace_id, open)
  select workspace_id, count(*) from approvals where state = 'pending' group by workspace_id;
alter table approvals force row level security;
alter table approval_gauges force row level security;

-- How many might be open in the workspace when this one was asked.
alter table approvals add column open_limit integer;

-- Whoever changes an approval holds the head of the workspace's journal, so that gauges are never
-- waited for in a circle.
create function approvals_count_open() returns trigger language plpgsql as $$
declare
  now_open integer;
begin
  insert into approval_gauges as gauge (workspace_id, open) values (new.workspace_id, 1)
    on conflict (workspace_id) do update set open = gauge.open + 1
    returning gauge.open into now_open;
  if now_open > new.open_limit then
    raise exception 'workspace % has % open approvals already', new.workspace_id, new.open_limit
      using errcode = 'check_violation', constraint = 'approvals_open_limit';
  end if;
  return null;
end $$;
create trigger approvals_are_limited after insert on approvals
  for each row when (new.state = 'pending') execute function approvals_count_open();

create function approvals_count_closed() returns trigger language plpgsql as $$
begin
  update approval_gauges set open = open - 1 where workspace_id = new.workspace_id;
  return null;
end $$;
create trigger approvals_make_room after update of state on approvals
  for each row when (old.state = 'pending' and new.state <> 'pending')
  execute function approvals_count_closed();
