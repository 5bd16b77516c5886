import type { Tx } from "../../../mesh/database.ts"

/** A call of a run, by its place. */
export interface CallPlace {
  readonly runId: string
  readonly stepIndex: number
}

/** Which of these calls there are, and whether each was ever sent, in no order. */
export function knownCalls(
  tx: Tx,
  workspaceId: string,
  places: readonly CallPlace[],
): Promise<readonly (CallPlace & { readonly wasSent: boolean })[]> {
  return tx.query(
    `select c.run_id as "runId", c.step_index as "stepIndex", c.start_time is not null as "wasSent"
     from unnest($2::uuid[], $3::integer[]) as p (run_id, step_index)
     join tool_calls c on c.workspace_id = $1::uuid and c.run_id = p.run_id
       and c.step_index = p.step_index`,
    [workspaceId, places.map(({ runId }) => runId), places.map(({ stepIndex }) => stepIndex)],
  )
}
