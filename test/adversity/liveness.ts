/** What must hold of runs that have not ended: each waits for something that will come. */
import type { ClaimRow, RunRow, World } from "./world.ts"

/** Every run has ended, or waits for something that will come. */
export function nothingIsStuck({ runs, calls, approvals, claims, now }: World): string[] {
  const claimOf = new Map(claims.map((claim) => [claim.runId, claim]))
  const pending = new Set(
    approvals
      .filter(({ state, expireTime }) => state === "pending" && expireTime > now)
      .map(({ runId }) => runId),
  )
  const unknown = new Set(
    calls.filter(({ state }) => state === "outcome_unknown").map(({ runId }) => runId),
  )
  return runs.flatMap((run) => {
    if (run.isEnded) return claimOf.has(run.runId) ? [`run ${run.runId} ended, and is claimed`] : []
    const claim = claimOf.get(run.runId)
    const isSetAside = run.reason === "quarantined"
    const isAnswerable = pending.has(run.runId) || unknown.has(run.runId) || isSetAside
    const why = stuckBy(run, claim, isAnswerable, now)
    return why === undefined ? [] : [`run ${run.runId} (${run.state}) ${why}`]
  })
}

function stuckBy(
  { state, deadline }: RunRow,
  claim: ClaimRow | undefined,
  isAnswerable: boolean,
  now: number,
): string | undefined {
  if (claim === undefined) return "is nobody's, and nobody will look at it"
  if (claim.dueTime > deadline + graceMs) return "is looked at only after its deadline"
  if (claim.isOwned) return claim.dueTime > now ? undefined : "has a dead owner"
  if (state === "requires_action") {
    if (isAnswerable) return undefined
    return claim.dueTime <= now + graceMs ? undefined : "waits for nothing"
  }
  return claim.dueTime <= now + graceMs ? undefined : "has no owner, and is not due"
}

const graceMs = 60_000
