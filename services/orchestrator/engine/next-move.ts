/** What an owner has to do about a run as it stands. Decided without I/O. */
import { isQuarantined } from "../run/run.ts"
import type { ApprovalRecord, Snapshot, ToolCallRecord } from "../run/snapshot.ts"

export type Move =
  /** The run has ended. */
  | { readonly kind: "none" }
  /** Its owners vanish over it again and again. */
  | { readonly kind: "set_aside" }
  /** It waits until then, unless somebody does something about it. */
  | { readonly kind: "rest"; readonly until: Date }
  /** The owner is about to stop. */
  | { readonly kind: "give_back" }
  | { readonly kind: "expire"; readonly reason: string }
  | { readonly kind: "end_cancelled" }
  /** The executing call must come to its end. */
  | { readonly kind: "settle"; readonly call: ToolCallRecord; readonly reason: string }
  | { readonly kind: "execute_again"; readonly call: ToolCallRecord }
  | { readonly kind: "prepare"; readonly call: ToolCallRecord; readonly mustWaitForTurn: boolean }
  | {
      readonly kind: "use_approval"
      readonly call: ToolCallRecord
      readonly approval: ApprovalRecord
    }
  /** Somebody may know by now what became of it. */
  | { readonly kind: "ask_outcome"; readonly call: ToolCallRecord }
  | { readonly kind: "pass_settled_on"; readonly call: ToolCallRecord }

export interface MoveOptions {
  /** Owners that vanished where the run stands. */
  readonly crashes: number
  readonly maxCrashes: number
  readonly isDraining: boolean
}

export function nextMove(snapshot: Snapshot, options: MoveOptions): Move {
  const { run, calls, clock } = snapshot
  if (run.endTime !== undefined) return { kind: "none" }
  const call = calls[run.stepIndex]
  if (call === undefined) throw new Error("a live run has a current step")
  if (options.crashes >= options.maxCrashes) return { kind: "set_aside" }
  const isLate = clock.now() >= run.deadline.getTime()
  if (!isLate && isQuarantined(run)) return { kind: "rest", until: run.deadline }
  if (call.state === "executing") {
    return run.state === "cancelling" || isLate
      ? { kind: "settle", call, reason: isLate ? "deadline_exceeded" : "cancelled" }
      : { kind: "execute_again", call }
  }
  if (run.state === "cancelling") return { kind: "end_cancelled" }
  if (isLate) return { kind: "expire", reason: "deadline_exceeded" }
  if (options.isDraining) return { kind: "give_back" }
  if (run.state === "queued" && run.startTime !== undefined && clock.now() < +run.startTime) {
    return { kind: "rest", until: run.startTime }
  }
  switch (call.state) {
    case "proposed":
      return { kind: "prepare", call, mustWaitForTurn: run.state === "queued" && run.isInLine }
    case "ready":
      return { kind: "use_approval", call, approval: approvalOf(snapshot) }
    case "succeeded":
    case "failed":
      return { kind: "pass_settled_on", call }
    case "awaiting_approval": {
      const { expireTime } = approvalOf(snapshot)
      if (clock.now() >= expireTime.getTime()) return { kind: "expire", reason: "approval_expired" }
      return { kind: "rest", until: expireTime < run.deadline ? expireTime : run.deadline }
    }
    case "outcome_unknown":
      return { kind: "ask_outcome", call }
    default:
      throw new Error(`a live run has a call that is ${call.state}`)
  }
}

const firstAskMs = 5_000
const longestAskMs = 600_000

/**
 * When to ask again about a call that nobody has known of since then: at longer and longer intervals,
 * which come of how long that is and need no memory of their own; at the deadline at the latest.
 */
export function askAgainAt(since: Date, deadline: Date, now: number): Date {
  const waitMs = Math.min(Math.max(now - since.getTime(), firstAskMs), longestAskMs)
  return new Date(Math.min(now + waitMs, deadline.getTime()))
}

function approvalOf({ approval }: Snapshot): ApprovalRecord {
  if (approval === undefined) throw new Error("a call that was asked about has its approval")
  return approval
}
