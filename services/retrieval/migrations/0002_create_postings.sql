-- The inverted index: how often and where a term stands in the newest version of a document. A term
-- is a stem (`activ`), a stop word (`!the`), an identifier (`=pg_stat_activity`) or a keyword in
-- capitals (`^NOT`). The workspace leads both indexes, so that a search reads rows of its own
-- workspace only and costs what its own documents cost. How many documents hold a term is counted
-- from the rows that a search reads anyway; nothing is kept that could go out of step.
-- The primary key serves the ranking of documents by their terms, the places of a term in a document,
-- and the search for the nearest spelling, which walks the terms that begin alike.
create table postings (
  workspace_id uuid not null,
  document_id uuid not null,
  term text collate "C" not null,
  title_count smallint not null,
  heading_count smallint not null,
  lead_count smallint not null,
  body_count smallint not null,
  -- Length of the document, repeated here so that ranking joins nothing.
  word_count integer not null,
  -- Numbers of the words at which the term stands, ascending, with commas between them: a third of
  -- what an array of mostly two elements takes.
  positions text not null,
  primary key (workspace_id, term, document_id)
);
-- Serves the removal of a document. Its entries share their key, so that they take few bytes each.
create index postings_document_idx on postings (workspace_id, document_id);
alter table postings enable row level security;
alter table postings force row level security;
create policy postings_of_workspace on postings to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, delete on postings to :app_role;

-- Size of a workspace's index, which ranking needs: documents and their words. Changed in the
-- transaction of each ingestion and deletion, as its last statement. The primary key serves both.
create table corpora (
  workspace_id uuid not null,
  document_count bigint not null,
  word_count bigint not null,
  primary key (workspace_id)
);
alter table corpora enable row level security;
alter table corpora force row level security;
create policy corpora_of_workspace on corpora to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update on corpora to :app_role;
