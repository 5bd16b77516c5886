/**
 * One transaction's worth of change to one run.
 *
 * Owns: the run, its calls and its approval as they will be, every one moved only by its transition
 * table; and what must be stored beside them: verdicts, entries of the journal, the claim.
 *
 * 1. Nothing here touches the database: a change is built, then stored whole or not at all.
 * 2. What a state demands (closing what is open, giving the lease back) is done here by the effects
 *    of the transition, never by whoever asks for it.
 * 3. A change knows the revision it started from; storing it does nothing where that is not the
 *    stored one. Whatever belongs to a run moves its revision.
 */
import { graver } from "../action.ts"
import { type ApprovalEvent, transitionApproval } from "../approval/approval.ts"
import { countApprovals, type GivenAnswer, isGlassBroken } from "../approval/approval-answer.ts"
import type { CallUsage, MaxUsage } from "../budget/budget.ts"
import type { Judgement } from "../engine/judgement.ts"
import { askAgainAt } from "../engine/next-move.ts"
import { JournalEntries } from "../journal/journal-entries.ts"
import { isTerminalRun, type RunEffect, type RunEvent, transitionRun } from "../run/run.ts"
import type {
  ApprovalRecord,
  Denial,
  RunRecord,
  Snapshot,
  ToolCallRecord,
} from "../run/snapshot.ts"
import {
  isEndedToolCall,
  isOpenToolCall,
  type ToolCallEvent,
  transitionToolCall,
} from "../run/tool-call.ts"

/** What becomes of the run's place in the claim table. */
export type ClaimChange =
  | { readonly kind: "keep" }
  | { readonly kind: "drop" }
  /** What the run waited for is there: it is due at once. */
  | { readonly kind: "wake" }
  /** Nobody owns it any more; it is due then. */
  | { readonly kind: "release"; readonly dueAt: Date }
  /** The owner, wherever it is, is told to stop its call. */
  | { readonly kind: "cancel" }
  /** It is this owner's from now on, under the next epoch. */
  | { readonly kind: "take"; readonly owner: string; readonly leaseMs: number }

export interface VerdictRow {
  readonly stepIndex: number
  readonly judgement: Judgement
}

/** A person's answer, with its place among the others. */
export interface AnswerOfChange {
  readonly approvalId: string
  readonly index: number
  /** Which yes it is; undefined for a no, and where the glass was broken. */
  readonly approvalNumber: number | undefined
  readonly given: GivenAnswer
}

export interface Consumption {
  readonly approvalId: string
  readonly digest: string
}

export class Change {
  readonly before: Snapshot
  readonly entries = new JournalEntries()
  readonly verdicts: VerdictRow[] = []
  readonly answers: AnswerOfChange[] = []
  consumption: Consumption | undefined
  claim: ClaimChange = { kind: "keep" }
  /** What a call ends with, as JSON: made once, where it was counted. */
  resultText: string | undefined
  /** What is held in the budget of the workspace from now on, for the call that is admitted. */
  reserved: MaxUsage | undefined
  /** The call that has ended for which something was held. */
  released: { readonly stepIndex: number; readonly usage: MaxUsage } | undefined
  /** Whether the run's executing call must be told to stop. */
  abortsCall = false
  #run: RunRecord
  readonly #calls = new Map<number, ToolCallRecord>()
  readonly #approvals = new Map<string, ApprovalRecord>()

  constructor(before: Snapshot) {
    this.before = before
    this.#run = before.run
  }

  get run(): RunRecord {
    return this.#run
  }

  /** The calls that change, as they will be. */
  get calls(): readonly ToolCallRecord[] {
    return [...this.#calls.values()]
  }

  /** The approvals that change or are new, as they will be. */
  get approvals(): readonly ApprovalRecord[] {
    return [...this.#approvals.values()]
  }

  /** The run with everything as it is once this was stored, at that time by the database's clock. */
  after(at: Date): Snapshot {
    const { calls, approval, clock } = this.before
    const changed = [...this.#approvals.values()].at(-1)
    const run = this.#run
    return {
      run: {
        ...run,
        revision: run.revision + 1,
        epoch: this.claim.kind === "take" ? run.epoch + 1 : run.epoch,
        eventCount: run.eventCount + this.entries.count,
        updateTime: at,
        endTime: isTerminalRun(run.state) ? (run.endTime ?? at) : undefined,
      },
      calls: calls.map((call) => {
        const moved = this.#calls.get(call.stepIndex)
        return moved === undefined
          ? call
          : {
              ...moved,
              revision: moved.revision + 1,
              updateTime: at,
              startTime: moved.startTime ?? (moved.state === "executing" ? at : undefined),
            }
      }),
      approval: changed ?? approval,
      clock,
    }
  }

  /** Whether the run's time was over when the change began. */
  isLate(): boolean {
    return this.#now() >= this.#run.deadline.getTime()
  }

  call(stepIndex: number): ToolCallRecord {
    const call = this.#calls.get(stepIndex) ?? this.before.calls[stepIndex]
    if (call === undefined) throw new Error(`the run has no step ${stepIndex}`)
    return call
  }

  /** Opens the history of a new run, which waits for a replica or is this one's at once. */
  open(isClaimed: boolean): void {
    this.entries.runStarted(this.#run)
    if (isClaimed) this.moveRun({ kind: "claim" })
    else this.entries.runChanged(this.#run)
  }

  moveRun(event: RunEvent, denial?: Denial): void {
    const { state, reason, effects } = transitionRun(this.#run.state, event)
    this.#run = {
      ...this.#run,
      state,
      reason,
      policyDenial: denial ?? this.#run.policyDenial,
    }
    for (const effect of effects) this.#followRun(effect, event)
    this.entries.runChanged(this.#run)
  }

  /** Sets members of the run that no transition owns. */
  setRun(members: Partial<Pick<RunRecord, "stepIndex" | "requesterRole">>): void {
    this.#run = { ...this.#run, ...members }
  }

  moveCall(
    stepIndex: number,
    event: ToolCallEvent,
    members: Partial<ToolCallRecord> = {},
    executionMs = 0,
    usage?: CallUsage,
  ): void {
    const call = this.call(stepIndex)
    const { state, effects } = transitionToolCall(call.state, event)
    const moved = { ...call, reason: "", ...members, state }
    this.#calls.set(stepIndex, moved)
    if (event === "execute") {
      this.#run = { ...this.#run, usedCalls: this.#run.usedCalls + 1 }
      this.reserved = call.maxUsage
    }
    if (call.maxUsage && isEndedToolCall(state)) this.released = { stepIndex, usage: call.maxUsage }
    this.entries.toolCallChanged(moved, executionMs, usage)
    if (effects.includes("supersede_approval")) this.#moveOpenApproval(stepIndex, "supersede")
    if (effects.includes("cancel_approval")) this.#moveOpenApproval(stepIndex, "cancel")
  }

  /** Counts what a call has used up. */
  spend({ inputTokens, outputTokens, costMicros }: CallUsage): void {
    const { usedInputTokens, usedOutputTokens, usedCostMicros } = this.#run
    this.#run = {
      ...this.#run,
      usedInputTokens: usedInputTokens + inputTokens,
      usedOutputTokens: usedOutputTokens + outputTokens,
      usedCostMicros: usedCostMicros + costMicros,
    }
  }

  /** Counts arguments as they are in the end. */
  countArguments(bytes: number): void {
    this.#run = { ...this.#run, payloadBytes: this.#run.payloadBytes + bytes }
  }

  /** Counts what a call ends with. */
  countResult(text: string): void {
    this.resultText = text
    this.countArguments(Buffer.byteLength(text))
  }

  /** Sets members of a call that no transition owns. */
  setCall(stepIndex: number, members: Partial<ToolCallRecord>): void {
    this.#calls.set(stepIndex, { ...this.call(stepIndex), ...members })
  }

  judge(judgement: Judgement, stepIndex?: number): void {
    const call = stepIndex === undefined ? undefined : this.call(stepIndex)
    const { verdict } = judgement
    this.#run = { ...this.#run, moderationOutcome: graver(this.#run.moderationOutcome, verdict) }
    if (call !== undefined) {
      this.setCall(call.stepIndex, { moderationOutcome: graver(call.moderationOutcome, verdict) })
      if (judgement.subject === "tool_arguments" && judgement.digest !== "") {
        this.verdicts.push({ stepIndex: call.stepIndex, judgement })
      }
    }
    this.entries.moderated(judgement, call)
  }

  openApproval(approval: ApprovalRecord): void {
    this.#approvals.set(approval.approvalId, approval)
    this.setCall(approval.stepIndex, { approvalId: approval.approvalId })
    this.entries.approvalChanged(approval, this.#now())
  }

  moveApproval(
    approval: ApprovalRecord,
    event: ApprovalEvent,
    members: Partial<Pick<ApprovalRecord, "deciderId" | "comment">> = {},
  ): void {
    const current = this.#approvals.get(approval.approvalId) ?? approval
    const { state } = transitionApproval(current.state, event)
    const decideTime = current.decideTime ?? new Date(this.#now())
    const moved = { ...current, ...members, state, decideTime }
    this.#approvals.set(approval.approvalId, moved)
    this.entries.approvalChanged(moved, this.#now())
  }

  /** Adds an answer to those that were given; what it decides is another matter. */
  answer(approval: ApprovalRecord, given: GivenAnswer): void {
    const createTime = new Date(this.#now())
    const answers = [...approval.answers, { ...given, createTime, isInForce: true }]
    const approveCount = countApprovals(answers)
    const isCounted = approveCount > approval.approveCount
    const answered = { ...approval, answers, approveCount, isGlassBroken: isGlassBroken(answers) }
    this.#approvals.set(approval.approvalId, answered)
    this.answers.push({
      ...{ approvalId: approval.approvalId, given },
      index: answers.length,
      approvalNumber: isCounted ? approveCount : undefined,
    })
    this.entries.approvalAnswered(answered, given)
  }

  /** Uses an approval up; storing the change fails unless it is a valid, unused yes. */
  consume(approval: ApprovalRecord, digest: string): void {
    this.consumption = { approvalId: approval.approvalId, digest }
  }

  /** The woken run is this owner's at once. */
  take({ owner, leaseMs }: { readonly owner: string; readonly leaseMs: number }): void {
    this.claim = { kind: "take", owner, leaseMs }
  }

  /** Makes a waiting run due at once. */
  wake(): void {
    this.claim = { kind: "wake" }
  }

  #followRun(effect: RunEffect, event: RunEvent): void {
    switch (effect) {
      case "close_open": {
        const reason = event.kind === "cancel" ? "cancelled" : "run_ended"
        for (const { stepIndex } of this.before.calls) {
          if (isOpenToolCall(this.call(stepIndex).state)) {
            this.moveCall(stepIndex, "cancel", { reason })
          }
        }
        return
      }
      case "drop_claim":
        this.claim = { kind: "drop" }
        return
      case "release_lease":
        this.claim = { kind: "release", dueAt: this.#waitsUntil() }
        return
      case "abort_call":
        this.abortsCall = true
        this.claim = { kind: "cancel" }
        return
    }
  }

  /** When a run that waits now must be looked at again, should nobody answer. */
  #waitsUntil(): Date {
    const pending = [...this.#approvals.values()].find(({ state }) => state === "pending")
    const { deadline, stepIndex } = this.#run
    if ((this.#calls.get(stepIndex) ?? this.before.calls[stepIndex])?.state === "outcome_unknown") {
      return askAgainAt(new Date(this.#now()), deadline, this.#now())
    }
    return pending !== undefined && pending.expireTime < deadline ? pending.expireTime : deadline
  }

  #moveOpenApproval(stepIndex: number, event: "supersede" | "cancel"): void {
    const { approval } = this.before
    if (approval === undefined || approval.stepIndex !== stepIndex) return
    const current = this.#approvals.get(approval.approvalId) ?? approval
    const isUnused = current.state === "approved" && current.consumeTime === undefined
    if (current.state === "pending" || isUnused) this.moveApproval(current, event)
  }

  #now(): number {
    return this.before.clock.now()
  }
}
