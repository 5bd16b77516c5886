-- One row per document that was ever ingested or deleted: the newest version, or none, and the
-- version that the last deletion covers. The row is locked by every write of the document, so that
-- versions and not arrivals decide. The primary key serves the look-ups and the list by id.
create table documents (
  workspace_id uuid not null,
  document_id uuid not null,
  -- 0 while nothing is stored.
  version bigint not null default 0,
  -- Highest version that a deletion covers; 0 when there was none.
  deleted_version bigint not null default 0,
  title text not null default '',
  media_type text not null default '',
  source_uri text not null default '',
  -- Digest of the content, and of it with all that came along (title, type, uri).
  content_sha256 text not null default '',
  source_sha256 text not null default '',
  text_length integer not null default 0,
  text_sha256 text not null default '',
  passage_count integer not null default 0,
  -- Number of words, as ranking counts it.
  word_count integer not null default 0,
  -- Number of the first word of each passage.
  first_positions integer[] not null default '{}',
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  primary key (workspace_id, document_id),
  constraint documents_deleted_is_empty check (version = 0 or version > deleted_version)
);
alter table documents enable row level security;
alter table documents force row level security;
create policy documents_of_workspace on documents to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on documents to :app_role;

-- The text of the versions that citations may name, with the places of its passages:
-- [[start, end, [heading, ...]], ...], in code points. Passages are cut out of the text when they are
-- asked for, so that nothing is stored twice. Removed with the document. The primary key serves the
-- answer of a search, the check of a citation and the removal of versions that are too old.
create table document_versions (
  workspace_id uuid not null,
  document_id uuid not null,
  version bigint not null,
  title text not null,
  text text not null,
  outline jsonb not null,
  create_time timestamptz not null default now(),
  primary key (workspace_id, document_id, version),
  foreign key (workspace_id, document_id) references documents (workspace_id, document_id)
);
alter table document_versions enable row level security;
alter table document_versions force row level security;
create policy document_versions_of_workspace on document_versions to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, delete on document_versions to :app_role;
