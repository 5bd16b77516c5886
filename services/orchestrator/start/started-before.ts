import type { Database } from "../../../mesh/database.ts"
import { notFound } from "../../../mesh/errors.ts"
import { graver, type Verdict } from "../action.ts"
import { historyAfter } from "../journal/journal-store.ts"
import { isTerminalRun, type RunState } from "../run/run.ts"
import { toRunEvents } from "../run/run-message.ts"
import { findRun } from "../run/run-store.ts"
import type { RunRecord } from "../run/snapshot.ts"
import { runStateEnum, toolCallStateEnum, verdictEnum, wordOf } from "../state-enum.ts"

/**
 * The run as it was stored when it was started: what never changes of its row, and what the first row
 * of its history says. `payloadBytes` are those of its plan.
 */
export async function startedBefore(
  database: Database,
  workspaceId: string,
  runId: string,
  payloadBytes: number,
): Promise<RunRecord> {
  const { run, rows } = await database.tenant(
    workspaceId,
    async (tx) => ({
      run: await findRun(tx, workspaceId, runId),
      rows: await historyAfter(tx, workspaceId, runId, { after: 0, limit: 1 }),
    }),
    { name: "startedBefore" },
  )
  if (run === undefined) throw notFound("run", runId)
  let state: RunState = "queued"
  let reason = ""
  let moderationOutcome: Verdict | undefined
  let usedCalls = 0
  const events = rows.flatMap((row) => toRunEvents(row, 0))
  for (const { kind } of events) {
    if (kind.case === "runStateChanged") {
      state = wordOf(runStateEnum, kind.value.state) ?? state
      reason = kind.value.reason
    } else if (kind.case === "contentModerated") {
      const verdict = wordOf(verdictEnum, kind.value.verdict) ?? "blocked"
      moderationOutcome = graver(moderationOutcome, verdict)
    } else if (kind.case === "toolCallStateChanged") {
      usedCalls += kind.value.state === toolCallStateEnum.executing ? 1 : 0
    }
  }
  const isEnded = isTerminalRun(state)
  return {
    ...run,
    ...{ state, reason, moderationOutcome, usedCalls, payloadBytes },
    ...{ usedInputTokens: 0, usedOutputTokens: 0, usedCostMicros: 0, eventCount: events.length },
    policyDenial: isEnded ? run.policyDenial : undefined,
    stepIndex: 0,
    revision: 1,
    updateTime: run.createTime,
    endTime: isEnded ? run.createTime : undefined,
  }
}
