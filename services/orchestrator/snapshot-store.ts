import type { Tx } from "../../mesh/database.ts"
import { findApproval } from "./approval-store.ts"
import { findRun, takeRun } from "./run-store.ts"
import { clockFrom, type RunRecord, type Snapshot } from "./snapshot.ts"
import { callsOfRun } from "./tool-call-store.ts"

/** Reads a run with everything that its next step depends on, its row locked. */
export async function lockSnapshot(
  tx: Tx,
  workspaceId: string,
  runId: string,
): Promise<Snapshot | undefined> {
  const run = await findRun(tx, workspaceId, runId, { lock: true })
  return run === undefined ? undefined : complete(tx, run)
}

/** Fences earlier owners out and reads the run; undefined where it needs no owner any more. */
export async function takeSnapshot(
  tx: Tx,
  workspaceId: string,
  runId: string,
  epoch: number,
): Promise<Snapshot | undefined> {
  const run = await takeRun(tx, workspaceId, runId, epoch)
  return run === undefined ? undefined : complete(tx, run)
}

async function complete(tx: Tx, run: RunRecord): Promise<Snapshot> {
  const { workspaceId, runId } = run
  const calls = await callsOfRun(tx, workspaceId, runId)
  const approvalId = calls[run.stepIndex]?.approvalId
  const approval =
    approvalId === undefined ? undefined : await findApproval(tx, workspaceId, approvalId)
  const { now } = await tx.one<{ readonly now: Date }>("select clock_timestamp() as now")
  return { run, calls, approval, clock: clockFrom(now) }
}
