-- How many documents of a workspace hold each of its terms: what the rarity of a term is computed
-- from, so that a search counts nothing. Changed by every ingestion and deletion behind the lock of
-- the workspace's row in `corpora`; a term that no document holds has no row, so that nothing of a
-- deleted document stays. The primary key serves the rarities of a query's terms, and the walk over
-- terms that begin alike: the nearest spelling, and identifiers by their first letters.
create table vocabulary (
  workspace_id uuid not null,
  term text collate "C" not null,
  document_count integer not null,
  primary key (workspace_id, term)
) with (fillfactor = 80);

-- What was ingested before is counted once. Forced security would hide the rows from their owner.
alter table postings no force row level security;
insert into vocabulary (workspace_id, term, document_count)
select workspace_id, term, count(*) from postings group by workspace_id, term;
alter table postings force row level security;

alter table vocabulary enable row level security;
alter table vocabulary force row level security;
create policy vocabulary_of_workspace on vocabulary to :app_role
  using (workspace_id = runwarden.current_workspace())
  with check (workspace_id = runwarden.current_workspace());
grant select, insert, update, delete on vocabulary to :app_role;
