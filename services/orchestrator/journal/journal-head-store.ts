import type { Database, Statement } from "../../../mesh/database.ts"

/** As many workspaces as are remembered to have a journal. */
const maxKnown = 10_000

/** Before the runs: a statement does not see what it has just inserted, and could not lock it. */
export async function ensureJournals(
  database: Pick<Database, "batch">,
  workspaceIds: readonly string[],
  known: Set<string>,
): Promise<void> {
  const fresh = workspaceIds.filter((workspaceId) => !known.has(workspaceId))
  if (fresh.length === 0) return
  await database.batch(fresh, ensureStatement, [fresh])
  if (known.size > maxKnown) known.clear()
  for (const workspaceId of fresh) known.add(workspaceId)
}

const ensureStatement: Statement = {
  name: "ensure-journals",
  text: `insert into journal_heads (workspace_id) select unnest($1::uuid[])
    on conflict (workspace_id) do nothing`,
}
