-- What a run may use up, as JSON; null for any amount. And the calls that were admitted.
alter table runs
  add column budget text,
  add column used_calls integer not null default 0;

-- What the runs of a workspace may use up in a day; no row, or 0, for any amount. Serves GetBudget,
-- and whoever admits calls: only workspaces that have a limit are counted.
create table workspace_budgets (
  workspace_id uuid primary key,
  max_calls bigint not null check (max_calls >= 0),
  revision bigint not null default 1,
  updater_id text not null,
  update_time timestamptz not null default now()
);
alter table workspace_budgets enable row level security;
alter table workspace_budgets force row level security;
create policy workspace_budgets_of_workspace on workspace_budgets to :app_role
  using (workspace_id = (select runwarden.current_workspace()))
  with check (workspace_id = (select runwarden.current_workspace()));
create policy workspace_budgets_of_workspaces on workspace_budgets to :worker_role
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
grant select, insert, update on workspace_budgets to :app_role;
grant select on workspace_budgets to :worker_role;

-- What they have used up, by day (UTC). The primary key serves GetBudget and the count. It is changed
-- by the statement that admits calls, under the head of the workspace's journal.
create table workspace_usage (
  workspace_id uuid not null,
  day date not null,
  calls bigint not null,
  -- When four fifths were used up.
  warn_time timestamptz,
  primary key (workspace_id, day)
) with (fillfactor = 50);
alter table workspace_usage enable row level security;
alter table workspace_usage force row level security;
create policy workspace_usage_of_workspace on workspace_usage to :app_role
  using (workspace_id = (select runwarden.current_workspace()))
  with check (workspace_id = (select runwarden.current_workspace()));
create policy workspace_usage_of_workspaces on workspace_usage to :worker_role
  using ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true)
  with check ((workspace_id = any ((select runwarden.current_workspaces())::uuid[])) is true);
grant select on workspace_usage to :app_role;
grant select, insert, update on workspace_usage to :worker_role;

-- Nothing is admitted beyond the limit that is set at this moment, by however many at once.
create function workspace_usage_is_limited() returns trigger language plpgsql as $$
declare
  most bigint;
begin
  select max_calls into most from workspace_budgets where workspace_id = new.workspace_id;
  if new.calls > most then
    raise exception 'workspace % may make % calls a day', new.workspace_id, most
      using errcode = 'check_violation', constraint = 'workspace_usage_limit';
  end if;
  if new.warn_time is null and new.calls * 5 >= most * 4 then
    new.warn_time := now();
  end if;
  return new;
end $$;
create trigger workspace_usage_limit before insert or update of calls on workspace_usage
  for each row execute function workspace_usage_is_limited();
