-- How many versions each policy has: the row that concurrent creations of one name queue at.
create table policies (
  workspace_id uuid not null,
  name text not null check (char_length(name) between 1 and 64),
  last_version integer not null check (last_version > 0),
  primary key (workspace_id, name)
);
comment on table policies is 'The policies of a workspace by name, with the number of their newest version';

alter table policies enable row level security;
alter table policies force row level security;
create policy policies_of_workspace on policies to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on policies to :app_role;

-- Versions never change: the role may add them, and nothing else.
create table policy_versions (
  workspace_id uuid not null,
  name text not null,
  version integer not null check (version > 0),
  -- Orders the versions of a workspace by creation.
  version_id uuid not null,
  description text not null,
  rules jsonb not null,
  digest text not null,
  creator text not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, name, version),
  constraint policy_versions_policy_fkey foreign key (workspace_id, name)
    references policies (workspace_id, name)
);
comment on table policy_versions is 'Immutable versions of policies, rules as Protobuf JSON';

alter table policy_versions enable row level security;
alter table policy_versions force row level security;
create policy policy_versions_of_workspace on policy_versions to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert on policy_versions to :app_role;

-- ListPolicyVersions, newest first; with a name, it filters the few versions of one workspace.
create unique index policy_versions_created_idx on policy_versions (workspace_id, version_id desc);
comment on index policy_versions_created_idx is 'ListPolicyVersions, newest first';

-- Which version judges a workspace. No row: the newest default. It may name a version of default,
-- which has no row, so there is no foreign key.
create table active_policies (
  workspace_id uuid not null primary key,
  policy_version text not null,
  -- One more with every activation; the etag.
  revision bigint not null check (revision > 0),
  activator text not null,
  update_time timestamptz not null default now()
);
comment on table active_policies is 'The policy version that judges each workspace';

alter table active_policies enable row level security;
alter table active_policies force row level security;
create policy active_policies_of_workspace on active_policies to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on active_policies to :app_role;
