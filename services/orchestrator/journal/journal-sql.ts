/**
 * The part of a statement that appends to the journals of many workspaces.
 *
 * 1. Heads are locked after all else that the statement changes, in the order of workspaces, so that
 *    statements cannot wait for each other in a circle and a head is held for the shortest time.
 * 2. A head is read as it is once it is locked: the position and hash that come next follow whatever
 *    committed last.
 * 3. The row that makes telemetry look at a workspace is written while its head is held, and
 *    whoever takes that row away holds the head too (journal-delivery-store.ts): no entry is missed.
 */

/**
 * Rows without entries leave nothing behind. `source` has `n`, `workspace_id`, `run_id`, `first_sequence`, and in `entries`, `first_byte` and
 * `bytes` how many entries there are and where they stand in the parameter `content`. `before` counts
 * what must have been changed by then.
 */
export function appendSql(
  source: string,
  { before, content }: { readonly before: string; readonly content: string },
): string {
  return `head as (
    select h.workspace_id, h.position, h.hash from journal_heads h
    where h.workspace_id in (select workspace_id from ${source})
      and (select count(*) from ${before}) >= 0
    order by h.workspace_id for update
  ), placed as (
    select s.workspace_id, s.run_id, s.first_sequence, s.entries as entry_count, head.hash as head,
      substring(${content}::bytea from s.first_byte for s.bytes) as entries,
      head.position + row_number() over (partition by s.workspace_id order by s.n) as position
    from ${source} s join head on head.workspace_id = s.workspace_id
    where s.entries > 0
  ), chained as (
    select workspace_id, position, run_id, first_sequence, entry_count, entries,
      runwarden.journal_chain(head, runwarden.journal_frame(workspace_id, position, run_id,
        first_sequence, entry_count, now(), entries))
        over (partition by workspace_id order by position rows unbounded preceding) as hash
    from placed
  ), journaled as (
    insert into journal (workspace_id, position, run_id, first_sequence, entry_count, entries,
      create_time, hash)
    select workspace_id, position, run_id, first_sequence, entry_count, entries, now(), hash
    from chained
    returning workspace_id, position, hash
  ), advanced as (
    update journal_heads h set position = latest.position, hash = latest.hash
    from (select distinct on (workspace_id) workspace_id, position, hash from journaled
      order by workspace_id, position desc) latest
    where h.workspace_id = latest.workspace_id
    returning h.workspace_id
  ), due as (
    insert into journal_due (workspace_id) select workspace_id from head
    on conflict (workspace_id) do nothing
  )`
}

/** Fails where a workspace of the source had no head to lock. */
export function requireHeads(source: string): string {
  return `when (select count(*) from head) <> (select count(distinct workspace_id) from ${source})
      then runwarden.violated('a workspace has no journal')`
}
