-- The projects of a workspace.
create table projects (
  workspace_id uuid not null,
  project_id uuid not null,
  name text not null check (char_length(name) between 1 and 200),
  description text not null,
  state text not null check (state in ('draft', 'active', 'on_hold', 'completed', 'archived')),
  -- One more with every change; the etag.
  revision bigint not null check (revision > 0),
  creator text not null,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  primary key (workspace_id, project_id)
);
comment on table projects is 'Projects, one row each; state follows project.ts';

alter table projects enable row level security;
alter table projects force row level security;
create policy projects_of_workspace on projects to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on projects to :app_role;

-- ListProjects with a state; without one, the primary key serves it (ids are in order of creation).
create index projects_state_idx on projects (workspace_id, state, project_id desc);
comment on index projects_state_idx is 'ListProjects filtered by state, newest first';

-- The documents of a workspace, each in its newest version.
create table documents (
  workspace_id uuid not null,
  document_id uuid not null,
  project_id uuid,
  title text not null check (char_length(title) between 1 and 300),
  media_type text not null check (media_type in ('text/markdown', 'text/plain', 'text/html')),
  content text not null,
  content_bytes integer not null,
  content_sha256 text not null,
  metadata jsonb not null,
  version bigint not null check (version > 0),
  creator text not null,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  primary key (workspace_id, document_id),
  constraint documents_project_fkey foreign key (workspace_id, project_id)
    references projects (workspace_id, project_id)
);
comment on table documents is 'Documents, newest version only; retrieval keeps the index';

alter table documents enable row level security;
alter table documents force row level security;
create policy documents_of_workspace on documents to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update, delete on documents to :app_role;

-- ListDocuments of a project, and the foreign key.
create index documents_project_idx on documents (workspace_id, project_id, document_id desc);
comment on index documents_project_idx is 'ListDocuments filtered by project, newest first';

-- What each keyed tool call answered.
create table keyed_calls (
  workspace_id uuid not null,
  tool text not null,
  idempotency_key text not null,
  arguments_digest text not null,
  -- An encoded ExecuteToolResponse.
  response bytea not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, tool, idempotency_key)
);
comment on table keyed_calls is
  'One answer per idempotency key, written in the transaction of the effect; read on replay and by GetOutcome';

alter table keyed_calls enable row level security;
alter table keyed_calls force row level security;
create policy keyed_calls_of_workspace on keyed_calls to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert on keyed_calls to :app_role;
