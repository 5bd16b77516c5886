-- Versions of a workspace's rules about who answers approvals. They never change: the role may add
-- them, and nothing else. The primary key serves GetApprovalRuleVersion and, backwards, the list.
create table approval_rule_versions (
  workspace_id uuid not null,
  version integer not null check (version > 0),
  description text not null,
  -- Protobuf JSON, in the order in which the rules are tried.
  rules text not null,
  digest text not null,
  creator_id text not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, version)
);
alter table approval_rule_versions enable row level security;
alter table approval_rule_versions force row level security;
create policy approval_rule_versions_of_workspace on approval_rule_versions to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert on approval_rule_versions to :app_role;

-- By which version a workspace asks, and how many it has: the row that concurrent creations queue at.
-- No row, or no active version, is default@1.
create table approval_rule_books (
  workspace_id uuid not null primary key,
  last_version integer not null default 0,
  active_version integer,
  rule_version text not null
    generated always as (coalesce('rules@' || active_version::text, 'default@1')) stored,
  -- One more with every activation; the etag.
  revision bigint not null default 0,
  activator_id text not null default '',
  update_time timestamptz,
  foreign key (workspace_id, active_version) references approval_rule_versions
);
alter table approval_rule_books enable row level security;
alter table approval_rule_books force row level security;
create policy approval_rule_books_of_workspace on approval_rule_books to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
create policy approval_rule_books_of_workspaces on approval_rule_books to :worker_role
  using (workspace_id = any (runwarden.current_workspaces()))
  with check (workspace_id = any (runwarden.current_workspaces()));
grant select, insert, update on approval_rule_books to :app_role;
grant select on approval_rule_books to :worker_role;

-- Every activation, for the record.
create table approval_rule_activations (
  workspace_id uuid not null,
  revision bigint not null,
  rule_version text not null,
  activator_id text not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, revision)
);
alter table approval_rule_activations enable row level security;
alter table approval_rule_activations force row level security;
create policy approval_rule_activations_of_workspace on approval_rule_activations to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert on approval_rule_activations to :app_role;
