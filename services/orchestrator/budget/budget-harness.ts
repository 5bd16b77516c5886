/** A workspace with a budget, and an admin who sets it. */
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import type { Run } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import { inWorkspace, type Orchestrator } from "../orchestrator-harness.ts"

export function inBudget(orchestrator: Orchestrator) {
  const me = inWorkspace(orchestrator)
  const { workspaceId } = me
  const admin = actingAs(memberSubject(workspaceId, newId(), Role.ADMIN))
  return {
    ...me,
    async set(maxDailyToolCalls: number, etag = "", others: object = {}) {
      const request = { workspaceId, requestId: newId(), maxDailyToolCalls, etag, ...others }
      return (await orchestrator.budgets.setBudget(request, admin)).budget
    },
    async budget() {
      return (await orchestrator.budgets.getBudget({ workspaceId }, admin)).budget
    },
    ended(runId: string): Promise<Run> {
      return until(
        async () => {
          const run = await me.get(runId)
          return run.endTime !== undefined && run
        },
        { timeoutMs: 15_000 },
      )
    },
  }
}
