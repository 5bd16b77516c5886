/**
 * Carries one run from where it stands to where it ends or waits.
 *
 * Owns: the order of what is done to the run; its last known state is held-run.ts's.
 * States: stepping (preparing, admitting) → executing → concluding → stepping …; it stops at a
 * terminal state, at a wait, at a lost lease, and between two steps when the replica drains.
 *
 * Invariants:
 * 1. Every write asks for the epoch of the lease and the state that the decision was made on. Where
 *    it is refused, the run is read anew and everything decided again.
 * 2. Nothing is sent to a tool before the change that admits it is stored.
 * 3. What came back is stored before or with what it leads to, whatever happened to the run.
 * 4. Nothing new is admitted for a requester who was not known as a member a moment ago.
 * 5. Whatever was concluded while the call was being aborted is thrown away, never stored.
 */

import type { Client } from "@connectrpc/connect"
import type { Link, Span, Tracer } from "@opentelemetry/api"
import type { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { activeTraceId, inSpan } from "../../mesh/tracing.ts"
import { backingOf } from "./backing.ts"
import { Change } from "./change.ts"
import { executeCall, type Outcome, settleCall } from "./execution.ts"
import { HeldRun, type HeldRunDeps } from "./held-run.ts"
import type { Judgement } from "./judgement.ts"
import type { Lease } from "./lease.ts"
import { createRequester, type Requester } from "./membership.ts"
import {
  type Conclusion,
  concludeCall,
  endedBy,
  expire,
  giveUp,
  mayContinue,
  passOn,
} from "./outcome.ts"
import type { RetryBudgets } from "./retry-budget.ts"
import type { Snapshot, ToolCallRecord } from "./snapshot.ts"
import { callAttributes, linkTo, outcomeAttributes, runAttributes } from "./span.ts"
import { judgeResult, prepareApproved, prepareCall, prepareInput, type StepDeps } from "./step.ts"

export interface DriverDeps extends StepDeps, HeldRunDeps {
  readonly retries: RetryBudgets
  readonly membership: Client<typeof MembershipService>
  readonly tracer: Tracer
  isDraining(): boolean
}

/** Whether the run was just stored here, or taken over as somebody left it. */
export type Origin = "started" | "continued"

/** What the driver did with the run: it must be given back unless it is done or waits. */
export type Ending =
  | { readonly kind: "done" }
  | { readonly kind: "give_back"; readonly afterMs: number }
  /** The run is another owner's by now, or has ended. */
  | { readonly kind: "overtaken" }

type Turn =
  | { readonly kind: "again" }
  /** The call is admitted, and its execution is what comes next. */
  | { readonly kind: "execute"; readonly call: ToolCallRecord }
  | Ending

const again: Turn = { kind: "again" }
const done: Turn = { kind: "done" }

export class RunDriver {
  readonly #deps: DriverDeps
  readonly #lease: Lease
  readonly #held: HeldRun
  #deadline: NodeJS.Timeout | undefined
  readonly #requester: Requester
  readonly #crashes: number
  readonly #origin: Origin

  /** `crashes` counts the owners that vanished where the run stands. */
  constructor(
    deps: DriverDeps,
    lease: Lease,
    snapshot: Snapshot,
    { origin, crashes }: { readonly origin: Origin; readonly crashes: number },
  ) {
    this.#deps = deps
    this.#origin = origin
    this.#requester = createRequester(deps, origin === "started")
    this.#lease = lease
    this.#held = new HeldRun(deps, lease, snapshot)
    this.#crashes = crashes
  }

  /** One segment of the run in one span: a child of what started it, or a new trace that links. */
  async drive(): Promise<Ending> {
    const { run } = this.#held.snapshot
    const origin = this.#origin
    const links: Link[] = origin === "continued" ? linkTo(run.traceParent) : []
    const start = { attributes: runAttributes(run), links, root: origin === "continued" }
    return inSpan(this.#deps.tracer, `invoke_workflow ${run.planName}`, start, async (span) => {
      this.#watchDeadline()
      try {
        for (let turn: Turn = again; ; ) {
          if (turn.kind === "again") turn = await this.#turn()
          else if (turn.kind === "execute") turn = await this.#execute(turn.call)
          else return turn
        }
      } finally {
        clearTimeout(this.#deadline)
        const { state, reason } = this.#held.snapshot.run
        span.setAttribute("runwarden.run.state", state)
        if (state === "failed" || state === "expired") span.setAttribute("error.type", reason)
      }
    })
  }

  async #turn(): Promise<Turn> {
    this.#lease.lost.throwIfAborted()
    const { run, calls, clock } = this.#held.snapshot
    if (run.endTime !== undefined) return done
    const call = calls[run.stepIndex]
    if (call === undefined) throw new Error("a live run has a current step")
    if (this.#crashes >= this.#deps.config.maxCrashes) return this.#store(giveUp)
    const isLate = clock.now() >= run.deadline.getTime()
    if (call.state === "executing") {
      return run.state === "cancelling" || isLate
        ? this.#settle(call, isLate ? "deadline_exceeded" : "cancelled")
        : this.#executeAgain(call)
    }
    if (run.state === "cancelling") {
      return this.#store((change) => change.moveRun({ kind: "call_ended" }))
    }
    if (isLate) return this.#store((change) => expire(change, "deadline_exceeded"))
    if (this.#deps.isDraining()) return { kind: "give_back", afterMs: 0 }
    switch (call.state) {
      case "proposed":
        return this.#prepare(call)
      case "ready":
        return this.#resumeApproved(call)
      case "succeeded":
      case "failed":
        return this.#resumeSettled(call)
      case "awaiting_approval":
        return this.#wait()
      case "outcome_unknown":
        return this.#restUntil(run.deadline)
      default:
        throw new Error(`a live run has a call that is ${call.state}`)
    }
  }

  #prepare(call: ToolCallRecord): Promise<Turn> {
    return this.#asMember((change) =>
      this.#admit(change, (signal) => this.#prepareStep(change, call, signal)),
    )
  }

  async #prepareStep(change: Change, call: ToolCallRecord, signal: AbortSignal): Promise<void> {
    if (await prepareInput(this.#deps, change, signal)) {
      await prepareCall(this.#deps, change, call.stepIndex, signal)
    }
  }

  async #resumeApproved(call: ToolCallRecord): Promise<Turn> {
    const { approval, clock } = this.#held.snapshot
    if (approval === undefined) throw new Error("a ready call has its approval")
    if (clock.now() >= approval.expireTime.getTime()) {
      return this.#store((change) => {
        change.moveCall(call.stepIndex, "revoke", { reason: "approval_expired" })
        change.moveRun({ kind: "expire", reason: "approval_expired" })
      })
    }
    // While the requester is asked about.
    const backed = backingOf(this.#deps, approval, this.#lease.lost)
    return this.#asMember(async (change) => {
      const backing = await backed
      this.#lease.lost.throwIfAborted()
      if (backing === "unavailable") {
        return { kind: "give_back", afterMs: this.#deps.config.pollMs }
      }
      const isBacked = backing === "stands"
      return this.#admit(change, (signal) =>
        prepareApproved(this.#deps, change, approval, isBacked, signal),
      )
    })
  }

  /** The current call was settled by a person: its result is judged and passed on like any other. */
  async #resumeSettled(call: ToolCallRecord): Promise<Turn> {
    return this.#asMember(async (change) => {
      const judgement = await this.#judgeOutcome(change, call)
      passOn(change, call.stepIndex, judgement)
      return this.#commit(change)
    })
  }

  /** Goes on as the requester, who may have to be asked about first; a run that waited resumes. */
  async #asMember(goOn: (change: Change) => Promise<Turn>): Promise<Turn> {
    const { run, calls } = this.#held.snapshot
    const change = new Change(this.#held.snapshot)
    const isWaiting = run.state === "requires_action"
    if (run.state === "queued") change.moveRun({ kind: "claim" })
    if (isWaiting || this.#requester.isStale()) {
      const standing = await this.#requester.ask(run, this.#lease.lost)
      this.#lease.lost.throwIfAborted()
      switch (standing.kind) {
        case "unavailable":
          return { kind: "give_back", afterMs: this.#deps.config.pollMs }
        case "revoked":
          if (calls[run.stepIndex]?.state === "ready") {
            change.moveCall(run.stepIndex, "revoke", { reason: "membership_revoked" })
          }
          change.moveRun({ kind: "fail", reason: "membership_revoked" })
          return this.#commit(change)
        case "member":
          change.setRun({ requesterRole: standing.role })
      }
    }
    if (isWaiting) change.moveRun({ kind: "resume" })
    return goOn(change)
  }

  /** Prepares under the signals of the lease, stores, and executes what was admitted. */
  async #admit(change: Change, prepare: (signal: AbortSignal) => Promise<void>): Promise<Turn> {
    const { lost, cancelled } = this.#lease
    try {
      await prepare(AbortSignal.any([lost, cancelled]))
    } catch (error) {
      lost.throwIfAborted()
      if (!cancelled.aborted) throw error
      return this.#reload()
    }
    return this.#commit(change)
  }

  /** A call that an earlier owner began: sent again under the same key, after counting it. */
  async #executeAgain(call: ToolCallRecord): Promise<Turn> {
    const change = new Change(this.#held.snapshot)
    change.setCall(call.stepIndex, { attempts: call.attempts + 1 })
    return this.#commit(change)
  }

  #execute(call: ToolCallRecord): Promise<Turn> {
    this.#deps.reached("after_intent")
    return this.#inCallSpan(call, () =>
      executeCall(this.#deps, this.#held.snapshot.run, call, this.#lease),
    )
  }

  #settle(call: ToolCallRecord, reason: string): Promise<Turn> {
    return this.#inCallSpan(call, () =>
      settleCall(this.#deps, this.#held.snapshot.run, call, reason, this.#lease.lost),
    )
  }

  async #inCallSpan(call: ToolCallRecord, work: () => Promise<Outcome>): Promise<Turn> {
    const { run } = this.#held.snapshot
    const start = { attributes: callAttributes(run, call) }
    const name = `execute_tool ${call.tool}`
    const conclusion = await inSpan(this.#deps.tracer, name, start, async (span: Span) => {
      const startedAt = performance.now()
      const outcome = await work()
      const executionMs = performance.now() - startedAt
      span.setAttributes(outcomeAttributes(outcome))
      const judgement = await this.#judgeOutcome(
        new Change(this.#held.snapshot),
        endedBy(call, outcome),
      )
      return { outcome, judgement, executionMs, traceId: activeTraceId() }
    })
    return this.#conclude(call, conclusion)
  }

  /** Stores what came back, however often the run changed under it in the meantime. */
  async #conclude({ stepIndex }: ToolCallRecord, conclusion: Conclusion): Promise<Turn> {
    for (let isFirst = true; ; isFirst = false) {
      const change = new Change(this.#held.snapshot)
      concludeCall(change, stepIndex, conclusion)
      if (isFirst && this.#mayGoOn(change)) {
        const joined = await this.#goOn(change)
        if (joined !== undefined) return joined
      } else if (await this.#held.store(change)) {
        return this.#follow(change)
      }
      const turn = await this.#reload()
      if (turn.kind !== "again") return turn
    }
  }

  /** Whether the next step may be prepared on top of a change that is not stored yet. */
  #mayGoOn({ run }: Change): boolean {
    return run.state === "running" && !this.#deps.isDraining() && !this.#requester.isStale()
  }

  /**
   * Prepares the next step and stores it together with the outcome: one commit for both. Should the
   * process vanish before, the ledger still has the outcome. Undefined where the outcome must be
   * stored by itself.
   */
  async #goOn(change: Change): Promise<Turn | undefined> {
    const { lost, cancelled } = this.#lease
    const next = change.call(change.run.stepIndex)
    try {
      await this.#prepareStep(change, next, AbortSignal.any([lost, cancelled]))
    } catch {
      lost.throwIfAborted()
      return undefined
    }
    return (await this.#held.store(change)) ? this.#follow(change) : undefined
  }

  /** Judges what would be passed on: a result, or an error that the plan goes on with. */
  async #judgeOutcome(change: Change, call: ToolCallRecord): Promise<Judgement | undefined> {
    const { lost } = this.#lease
    if (call.result !== undefined) return judgeResult(this.#deps, change, call, call.result, lost)
    if (call.error === undefined || !mayContinue(call)) return undefined
    const { reason, message, metadata } = call.error
    const content = { error: { reason, message, metadata: { ...metadata } } }
    return judgeResult(this.#deps, change, call, content, lost)
  }

  #wait(): Promise<Turn> {
    const { run, approval, clock } = this.#held.snapshot
    if (approval === undefined) throw new Error("an awaiting call has its approval")
    if (clock.now() >= approval.expireTime.getTime()) {
      return this.#store((change) => expire(change, "approval_expired"))
    }
    const until = Math.min(approval.expireTime.getTime(), run.deadline.getTime())
    return this.#restUntil(new Date(until))
  }

  async #restUntil(at: Date): Promise<Turn> {
    return (await this.#held.restUntil(at)) ? done : this.#reload()
  }

  async #reload(): Promise<Turn> {
    return (await this.#held.reload()) ? again : { kind: "overtaken" }
  }

  async #store(build: (change: Change) => void): Promise<Turn> {
    const change = new Change(this.#held.snapshot)
    build(change)
    return this.#commit(change)
  }

  async #commit(change: Change): Promise<Turn> {
    return (await this.#held.store(change)) ? this.#follow(change) : this.#reload()
  }

  /** What a stored change leads to. */
  #follow({ before, claim }: Change): Turn {
    // The run has ended, or waits and was given back with the change itself.
    if (claim.kind === "drop" || claim.kind === "release") return done
    const { run, calls } = this.#held.snapshot
    const call = calls[run.stepIndex]
    const isAdmitted =
      call?.state === "executing" && call.attempts > (before.calls[call.stepIndex]?.attempts ?? 0)
    return isAdmitted ? { kind: "execute", call } : again
  }

  #watchDeadline(): void {
    const { run, clock } = this.#held.snapshot
    const left = run.deadline.getTime() - clock.now()
    // Node fires at once for what does not fit into 31 bits; a replica does not live that long.
    if (left < 2 ** 31) this.#deadline = setTimeout(() => this.#lease.cancel(), Math.max(0, left))
  }
}
