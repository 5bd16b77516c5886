-- The tenants.
create table workspaces (
  workspace_id uuid not null,
  display_name text not null,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  constraint workspaces_pkey primary key (workspace_id)
);
alter table workspaces enable row level security;
alter table workspaces force row level security;
create policy workspaces_of_workspace on workspaces to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on workspaces to :app_role;

-- Who acts. An actor outlives its membership, so that old runs and keys keep naming it.
create table actors (
  workspace_id uuid not null,
  actor_id uuid not null,
  display_name text not null,
  kind text not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, actor_id),
  constraint actors_workspace_fkey foreign key (workspace_id) references workspaces (workspace_id),
  constraint actors_kind_check check (kind in ('user', 'service'))
);
alter table actors enable row level security;
alter table actors force row level security;
create policy actors_of_workspace on actors to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on actors to :app_role;

-- Which actors belong to the workspace now, and in which role. `revision` counts the changes of a
-- member and is its etag. The primary key serves the look-up of one member and the pages of all:
-- actor ids are UUIDv7, so their order is that of creation.
create table members (
  workspace_id uuid not null,
  actor_id uuid not null,
  role text not null,
  revision bigint not null default 1,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  primary key (workspace_id, actor_id),
  constraint members_actor_fkey foreign key (workspace_id, actor_id)
    references actors (workspace_id, actor_id),
  constraint members_role_check check (role in ('viewer', 'member', 'approver', 'admin'))
);
alter table members enable row level security;
alter table members force row level security;
create policy members_of_workspace on members to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update, delete on members to :app_role;
