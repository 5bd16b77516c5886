-- Providers that workspaces added for themselves, those that were removed included: runs that are
-- under way may still be settled against them. The primary key serves every read by id.
create table workspace_providers (
  workspace_id uuid not null,
  provider_id uuid not null,
  name text collate "C" not null,
  -- The name as a reader may mistake it: of those that live, no two look alike.
  looks text collate "C" not null,
  -- Where it is reached: {kind, …}. It never changes.
  connection jsonb not null,
  -- What an admin said of tools: {tool: {riskClass, effect}}.
  settings jsonb not null default '{}',
  -- Counts every change of settings and credentials.
  revision integer not null default 1 check (revision > 0),
  attempt_time timestamptz,
  refresh_time timestamptz,
  error text,
  refused jsonb not null default '[]',
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  delete_time timestamptz,
  primary key (workspace_id, provider_id)
);
-- Serves names, and holds that no two that live look alike.
create unique index workspace_providers_looks_idx on workspace_providers (workspace_id, looks)
  where delete_time is null;
alter table workspace_providers enable row level security;
alter table workspace_providers force row level security;
create policy workspace_providers_of_workspace on workspace_providers to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy workspace_providers_of_workspaces on workspace_providers to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert, update, delete on workspace_providers to :app_role;
grant select on workspace_providers to :worker_role;
grant update (attempt_time, refresh_time, error, refused) on workspace_providers to :worker_role;

-- Every version of every tool that such a provider ever offered, as tool_versions has those of the
-- deployment's. The primary key serves the check that a version keeps its definition.
create table workspace_tool_versions (
  workspace_id uuid not null,
  provider_id uuid not null,
  name text collate "C" not null,
  version text collate "C" not null,
  seen_order bigint generated always as identity,
  digest text not null,
  definition jsonb not null,
  risk_class text not null check (risk_class in ('low', 'medium', 'high')),
  effect text not null check (effect in ('read', 'keyed', 'unsafe')),
  offered boolean not null default true,
  active boolean not null default false,
  trusted boolean not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, provider_id, name, version),
  foreign key (workspace_id, provider_id) references workspace_providers on delete cascade,
  check (offered or not active)
);
-- One version in force per tool; serves full names and the list.
create unique index workspace_tool_versions_active_idx
  on workspace_tool_versions (workspace_id, provider_id, name) where active;
-- Serves short names.
create index workspace_tool_versions_short_name_idx on workspace_tool_versions (workspace_id, name)
  where offered;
-- Serves pinned calls.
create index workspace_tool_versions_digest_idx on workspace_tool_versions (workspace_id, digest);
alter table workspace_tool_versions enable row level security;
alter table workspace_tool_versions force row level security;
create policy workspace_tool_versions_of_workspace on workspace_tool_versions to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy workspace_tool_versions_of_workspaces on workspace_tool_versions to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, delete on workspace_tool_versions to :app_role;
grant update (offered, active) on workspace_tool_versions to :app_role;
grant select, insert on workspace_tool_versions to :worker_role;
grant update (offered, active) on workspace_tool_versions to :worker_role;

-- Which provider is to be asked for its tools, and when: a row for each that lives. Idle ones have no
-- time. Claimed by whoever takes it first, for as long as the lease lasts.
create table provider_refreshes_due (
  workspace_id uuid not null,
  provider_id uuid not null,
  due_time timestamptz,
  lease_until timestamptz,
  -- Refreshes in a row that failed.
  failures integer not null default 0,
  primary key (workspace_id, provider_id),
  foreign key (workspace_id, provider_id) references workspace_providers on delete cascade
);
-- Serves the claim of what is due.
create index provider_refreshes_due_idx on provider_refreshes_due (due_time)
  where due_time is not null;
alter table provider_refreshes_due enable row level security;
alter table provider_refreshes_due force row level security;
create policy provider_refreshes_due_of_workspace on provider_refreshes_due to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy provider_refreshes_due_of_worker on provider_refreshes_due to :worker_role
  using (true) with check (true);
grant select, insert, update, delete on provider_refreshes_due to :app_role;
grant select, update on provider_refreshes_due to :worker_role;

-- Credentials of providers, each encrypted by itself. The primary key serves the read of one
-- provider's.
create table provider_credentials (
  workspace_id uuid not null,
  provider_id uuid not null,
  name text collate "C" not null,
  key_id text collate "C" not null,
  nonce bytea not null check (octet_length(nonce) = 12),
  -- Ciphertext and tag.
  sealed bytea not null,
  set_time timestamptz not null default now(),
  primary key (workspace_id, provider_id, name),
  foreign key (workspace_id, provider_id) references workspace_providers on delete cascade
);
alter table provider_credentials enable row level security;
alter table provider_credentials force row level security;
create policy provider_credentials_of_workspace on provider_credentials to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy provider_credentials_of_workspaces on provider_credentials to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert, update, delete on provider_credentials to :app_role;
grant select on provider_credentials to :worker_role;
grant update (key_id, nonce, sealed) on provider_credentials to :worker_role;

-- How many credentials of a provider are kept under which key, and nothing else of them: what is to be
-- encrypted anew is found by it, in whichever workspace it is. The primary key serves its upkeep.
create table credential_keys_due (
  workspace_id uuid not null,
  provider_id uuid not null,
  key_id text collate "C" not null,
  credential_count integer not null check (credential_count > 0),
  primary key (workspace_id, provider_id, key_id),
  foreign key (workspace_id, provider_id) references workspace_providers on delete cascade
);
-- Serves the sum by key, and the search for what is not under the newest.
create index credential_keys_due_key_idx on credential_keys_due (key_id);
alter table credential_keys_due enable row level security;
alter table credential_keys_due force row level security;
create policy credential_keys_due_of_workspace on credential_keys_due to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy credential_keys_due_of_worker on credential_keys_due to :worker_role
  using (true) with check (true);
grant select, insert, delete on credential_keys_due to :app_role, :worker_role;

-- An activation is of one provider, which the name alone does not tell where a workspace removes one
-- and adds another: the nil id is the deployment's.
alter table tool_activations
  add column provider_id uuid not null default '00000000-0000-0000-0000-000000000000',
  drop constraint tool_activations_pkey,
  add primary key (workspace_id, provider_id, provider, name, revision);

-- All versions of tools that a workspace can see: the deployment's, and its own. Serves what people
-- look at; calls read the tables.
create view visible_tool_versions with (security_invoker = true) as
  select '00000000-0000-0000-0000-000000000000'::uuid as workspace_id,
    '00000000-0000-0000-0000-000000000000'::uuid as provider_id,
    provider, name, version, seen_order, digest, definition, risk_class, effect, offered, active,
    trusted, create_time
  from tool_versions
  union all
  select t.workspace_id, t.provider_id, p.name, t.name, t.version, t.seen_order, t.digest,
    t.definition, t.risk_class, t.effect, t.offered, t.active, t.trusted, t.create_time
  from workspace_tool_versions t join workspace_providers p using (workspace_id, provider_id)
  where p.delete_time is null;
grant select on visible_tool_versions to :app_role;
