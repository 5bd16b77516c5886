-- Tools belong to the deployment, not to a workspace: no table here has a workspace_id. One row per
-- provider that is configured now or was once.
create table providers (
  name text collate "C" primary key,
  -- When it was last asked, and when it last answered.
  attempt_time timestamptz,
  refresh_time timestamptz,
  -- The reason of the last failure; null after a refresh that worked.
  error text,
  -- What it offers and the registry does not take: {name, version, kind, message, digest}.
  refused jsonb not null default '[]'
);
grant select, insert, update on providers to :app_role;

-- Every version of every tool that was ever taken. Only offered and active change. The primary key
-- serves the check that a version keeps its definition, and full names with a version.
create table tool_versions (
  provider text collate "C" not null references providers (name),
  name text collate "C" not null,
  version text collate "C" not null,
  -- The order in which versions were first seen.
  seen_order bigint generated always as identity,
  digest text not null,
  definition jsonb not null,
  risk_class text not null check (risk_class in ('low', 'medium', 'high')),
  effect text not null check (effect in ('read', 'keyed', 'unsafe')),
  -- Whether the provider's last answer had it, and whether an unversioned name resolves to it.
  offered boolean not null default true,
  active boolean not null default false,
  create_time timestamptz not null default now(),
  primary key (provider, name, version),
  check (offered or not active)
);
-- One active version per tool; serves full names, and the list by full name.
create unique index tool_versions_active_idx on tool_versions (provider, name) where active;
-- Serves short names.
create index tool_versions_short_name_idx on tool_versions (name) where offered;
-- Serves pinned calls, which name a tool by its digest.
create index tool_versions_digest_idx on tool_versions (digest);
grant select, insert on tool_versions to :app_role;
grant update (offered, active) on tool_versions to :app_role;

-- Definitions that came under a version that is known with another digest, for a person to look at.
-- The primary key serves the upsert of what a provider offers again and again.
create table quarantined_definitions (
  provider text collate "C" not null references providers (name),
  name text collate "C" not null,
  version text collate "C" not null,
  digest text not null,
  definition jsonb not null,
  reason text not null,
  create_time timestamptz not null default now(),
  primary key (provider, name, version, digest)
);
grant select, insert on quarantined_definitions to :app_role;
