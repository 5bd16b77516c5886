-- Embeddings of passages, where the database has pgvector; elsewhere there is no such table, and
-- search is lexical. They are those of one version of a document, and go with its text. The primary
-- key serves the exact comparison with all passages of a workspace; the HNSW indexes, one for each
-- number of dimensions, that of large workspaces.
do $migration$
declare dimension integer;
begin
  if not exists (select from pg_available_extensions where name = 'vector') then
    return;
  end if;
  begin
    create extension if not exists vector;
  exception when insufficient_privilege then
    return;
  end;
  create table passage_vectors (
    workspace_id uuid not null,
    document_id uuid not null,
    version bigint not null,
    ordinal integer not null,
    -- What made it: vectors of another model cannot be compared with it.
    model text not null,
    embedding vector not null,
    primary key (workspace_id, document_id, version, ordinal),
    foreign key (workspace_id, document_id, version)
      references document_versions (workspace_id, document_id, version) on delete cascade
  );
  foreach dimension in array array[384, 768, 1024, 1536] loop
    execute format('create index passage_vectors_%1$s_idx on passage_vectors
      using hnsw ((embedding::vector(%1$s)) vector_cosine_ops)
      where vector_dims(embedding) = %1$s', dimension);
  end loop;
  alter table passage_vectors enable row level security;
  alter table passage_vectors force row level security;
  create policy passage_vectors_of_workspace on passage_vectors to :app_role
    using (workspace_id = runwarden.current_workspace())
    with check (workspace_id = runwarden.current_workspace());
  grant select, insert, delete on passage_vectors to :app_role;
end
$migration$;
