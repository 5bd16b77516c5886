-- Content of what must leave this service, at least once. Written in the transaction of the change
-- that it tells of. The primary key serves the drain: the oldest items of one workspace and topic.
create table outbox (
  workspace_id uuid not null,
  topic text not null,
  position bigint generated always as identity,
  item_id uuid not null,
  payload bytea not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, topic, position)
);
alter table outbox enable row level security;
alter table outbox force row level security;
create policy outbox_of_workspace on outbox to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy outbox_of_workspaces on outbox to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert on outbox to :app_role;
grant select, insert, delete on outbox to :worker_role;

-- Which workspaces have something to send: ids only, so that a worker may look for work in all of
-- them. One row per item, inserted beside it, so that writers of one workspace never wait for each
-- other. The primary key serves the hop from one waiting workspace to the next.
create table outbox_due (
  workspace_id uuid not null,
  topic text not null,
  position bigint not null,
  primary key (workspace_id, topic, position)
);
alter table outbox_due enable row level security;
alter table outbox_due force row level security;
create policy outbox_due_of_workspace on outbox_due to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy outbox_due_of_worker on outbox_due to :worker_role using (true) with check (true);
grant select, insert on outbox_due to :app_role;
grant select, insert, delete on outbox_due to :worker_role;

-- Which drainer has a workspace now, and when a failing one may be tried again. Rows are made by
-- drainers and stay only while a lease or a back-off is on. The primary key serves the claim.
create table outbox_claims (
  workspace_id uuid not null,
  topic text not null,
  owner uuid not null,
  free_time timestamptz not null,
  attempts integer not null default 0,
  primary key (workspace_id, topic)
);
alter table outbox_claims enable row level security;
alter table outbox_claims force row level security;
create policy outbox_claims_of_worker on outbox_claims to :worker_role
  using (true) with check (true);
grant select, insert, update, delete on outbox_claims to :worker_role;
