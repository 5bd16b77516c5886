/**
 * Carries one run from where it stands to where it ends or waits.
 *
 * Owns: the last known snapshot of the run, which follows every stored change.
 * States: stepping (preparing, admitting) → executing → concluding → stepping …; it stops at a
 * terminal state, at a wait, at a lost lease, and between two steps when the replica drains.
 *
 * Invariants:
 * 1. Every write asks for the epoch of the lease and the state that the decision was made on. Where
 *    it is refused, the run is read anew and everything decided again.
 * 2. Nothing is sent to a tool before the change that admits it is stored.
 * 3. What came back is stored before anything else is decided, whatever happened to the run.
 * 4. Whatever was concluded while the call was being aborted is thrown away, never stored.
 */

import type { Client } from "@connectrpc/connect"
import type { Link, Span, Tracer } from "@opentelemetry/api"
import type { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { actingAs, serviceSubject } from "../../mesh/identity.ts"
import { activeTraceId, inSpan } from "../../mesh/tracing.ts"
import { Change } from "./change.ts"
import { StaleChange, storeChange } from "./change-store.ts"
import { dropClaim, releaseClaim } from "./claim-store.ts"
import { executeCall, type Outcome, settleCall } from "./execution.ts"
import type { Lease } from "./lease.ts"
import { concludeCall, expire, giveUp, mayContinue, passOn } from "./outcome.ts"
import type { Snapshot, ToolCallRecord } from "./snapshot.ts"
import { takeSnapshot } from "./snapshot-store.ts"
import { callAttributes, linkTo, outcomeAttributes, runAttributes } from "./span.ts"
import { judgeResult, prepareApproved, prepareCall, prepareInput, type StepDeps } from "./step.ts"

export interface DriverDeps extends StepDeps {
  readonly database: Database
  readonly membership: Client<typeof MembershipService>
  readonly tracer: Tracer
  /** Told after every stored change. */
  stored(change: Change): void
  isDraining(): boolean
}

/** What the driver did with the run: it must be given back unless it is done or waits. */
export type Ending =
  | { readonly kind: "done" }
  | { readonly kind: "give_back"; readonly afterMs: number }
  /** The run is another owner's by now, or has ended. */
  | { readonly kind: "overtaken" }

type Turn = { readonly kind: "again" } | Ending

const again: Turn = { kind: "again" }
const done: Turn = { kind: "done" }

export class RunDriver {
  readonly #deps: DriverDeps
  readonly #lease: Lease
  #snapshot: Snapshot
  #deadline: NodeJS.Timeout | undefined

  readonly #crashes: number

  /** `crashes` counts the owners that vanished where the run stands. */
  constructor(deps: DriverDeps, lease: Lease, snapshot: Snapshot, crashes: number) {
    this.#deps = deps
    this.#lease = lease
    this.#snapshot = snapshot
    this.#crashes = crashes
  }

  /** One segment of the run in one span: a child of what started it, or a new trace that links. */
  async drive(origin: "started" | "continued"): Promise<Ending> {
    const { run } = this.#snapshot
    const links: Link[] = origin === "continued" ? linkTo(run.traceParent) : []
    const start = { attributes: runAttributes(run), links, root: origin === "continued" }
    return inSpan(this.#deps.tracer, `invoke_workflow ${run.planName}`, start, async (span) => {
      this.#watchDeadline()
      try {
        for (;;) {
          const turn = await this.#turn()
          if (turn.kind !== "again") return turn
        }
      } finally {
        clearTimeout(this.#deadline)
        const { state, reason } = this.#snapshot.run
        span.setAttribute("runwarden.run.state", state)
        if (state === "failed" || state === "expired") span.setAttribute("error.type", reason)
      }
    })
  }

  async #turn(): Promise<Turn> {
    this.#lease.lost.throwIfAborted()
    const { run, calls, clock } = this.#snapshot
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
        return this.#giveBackUntil(run.deadline)
      default:
        throw new Error(`a live run has a call that is ${call.state}`)
    }
  }

  async #prepare(call: ToolCallRecord): Promise<Turn> {
    const change = new Change(this.#snapshot)
    if (change.run.state === "queued") change.moveRun({ kind: "claim" })
    return this.#admit(change, (signal) => this.#prepareStep(change, call, signal))
  }

  async #prepareStep(change: Change, call: ToolCallRecord, signal: AbortSignal): Promise<void> {
    if (await prepareInput(this.#deps, change, signal)) {
      await prepareCall(this.#deps, change, call.stepIndex, signal)
    }
  }

  async #resumeApproved(call: ToolCallRecord): Promise<Turn> {
    const { approval, clock } = this.#snapshot
    if (approval === undefined) throw new Error("a ready call has its approval")
    if (clock.now() >= approval.expireTime.getTime()) {
      return this.#store((change) => {
        change.moveCall(call.stepIndex, "revoke", { reason: "approval_expired" })
        change.moveRun({ kind: "expire", reason: "approval_expired" })
      })
    }
    return this.#resume((change) =>
      this.#admit(change, (signal) => prepareApproved(this.#deps, change, approval, signal)),
    )
  }

  /** The current call was settled by a person: its result is judged and passed on like any other. */
  async #resumeSettled(call: ToolCallRecord): Promise<Turn> {
    return this.#resume(async (change) => {
      const judgement = await this.#judgeOutcome(change, call)
      passOn(change, call.stepIndex, judgement)
      return this.#commit(change)
    })
  }

  /** Asks whether the requester may still act before a waiting run goes on. */
  async #resume(goOn: (change: Change) => Promise<Turn>): Promise<Turn> {
    const { run, calls } = this.#snapshot
    const change = new Change(this.#snapshot)
    if (run.state !== "requires_action") return goOn(change)
    const { workspaceId, requesterId: actorId } = run
    const subject = serviceSubject("orchestrator", workspaceId)
    const options = { signal: this.#lease.lost, timeoutMs: this.#deps.config.moderateTimeoutMs }
    let answer: { readonly member: boolean; readonly role: Role }
    try {
      answer = await this.#deps.membership.checkMembership(
        { workspaceId, actorId },
        actingAs(subject, options),
      )
    } catch {
      this.#lease.lost.throwIfAborted()
      return { kind: "give_back", afterMs: this.#deps.config.pollMs }
    }
    if (answer.member !== true || !(answer.role >= Role.MEMBER)) {
      if (calls[run.stepIndex]?.state === "ready") {
        change.moveCall(run.stepIndex, "revoke", { reason: "membership_revoked" })
      }
      change.moveRun({ kind: "fail", reason: "membership_revoked" })
      return this.#commit(change)
    }
    change.setRun({ requesterRole: answer.role })
    change.moveRun({ kind: "resume" })
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
    const { stepIndex } = change.run
    if (!(await this.#tryStore(change))) return this.#reload()
    const call = this.#snapshot.calls[stepIndex]
    return call?.state === "executing" ? this.#execute(call) : again
  }

  /** A call that an earlier owner began: sent again under the same key, after counting it. */
  async #executeAgain(call: ToolCallRecord): Promise<Turn> {
    const change = new Change(this.#snapshot)
    change.setCall(call.stepIndex, { attempts: call.attempts + 1 })
    if (!(await this.#tryStore(change))) return this.#reload()
    return this.#execute(change.call(call.stepIndex))
  }

  #execute(call: ToolCallRecord): Promise<Turn> {
    return this.#inCallSpan(call, () =>
      executeCall(this.#deps, this.#snapshot.run, call, this.#lease),
    )
  }

  #settle(call: ToolCallRecord, reason: string): Promise<Turn> {
    return this.#inCallSpan(call, () =>
      settleCall(this.#deps, this.#snapshot.run, call, reason, this.#lease.lost),
    )
  }

  async #inCallSpan(call: ToolCallRecord, work: () => Promise<Outcome>): Promise<Turn> {
    const { run } = this.#snapshot
    const start = { attributes: callAttributes(run, call) }
    return inSpan(this.#deps.tracer, `execute_tool ${call.tool}`, start, async (span: Span) => {
      const startedAt = performance.now()
      const outcome = await work()
      span.setAttributes(outcomeAttributes(outcome))
      return this.#conclude(call, outcome, performance.now() - startedAt)
    })
  }

  /** Stores what came back, however often the run changed under it in the meantime. */
  async #conclude(call: ToolCallRecord, outcome: Outcome, executionMs: number): Promise<Turn> {
    const ended: ToolCallRecord = {
      ...call,
      result: outcome.kind === "succeeded" ? outcome.result : undefined,
      error: outcome.kind === "failed" ? outcome.error : undefined,
      reason: outcome.kind === "failed" ? outcome.reason : "",
    }
    const judgement = await this.#judgeOutcome(new Change(this.#snapshot), ended)
    for (;;) {
      const change = new Change(this.#snapshot)
      const traceId = activeTraceId()
      concludeCall(change, call.stepIndex, { outcome, judgement, executionMs, traceId })
      if (await this.#tryStore(change)) return again
      const turn = await this.#reload()
      if (turn.kind !== "again") return turn
    }
  }

  /** Judges what would be passed on: a result, or an error that the plan goes on with. */
  async #judgeOutcome(change: Change, call: ToolCallRecord) {
    const { lost } = this.#lease
    if (call.result !== undefined) return judgeResult(this.#deps, change, call, call.result, lost)
    if (call.error === undefined || !mayContinue(call)) return undefined
    const { reason, message, metadata } = call.error
    const content = { error: { reason, message, metadata: { ...metadata } } }
    return judgeResult(this.#deps, change, call, content, lost)
  }

  #wait(): Promise<Turn> {
    const { run, approval, clock } = this.#snapshot
    if (approval === undefined) throw new Error("an awaiting call has its approval")
    if (clock.now() >= approval.expireTime.getTime()) {
      return this.#store((change) => expire(change, "approval_expired"))
    }
    const until = Math.min(approval.expireTime.getTime(), run.deadline.getTime())
    return this.#giveBackUntil(new Date(until))
  }

  async #giveBackUntil(at: Date): Promise<Turn> {
    const { workspaceId } = this.#lease
    // Under the lock of the run, so that an answer that comes at this moment is not slept through.
    const isUnchanged = await this.#deps.database.tenant(workspaceId, async (tx) => {
      const current = await takeSnapshot(tx, workspaceId, this.#lease.runId, this.#lease.epoch)
      if (current?.run.revision !== this.#snapshot.run.revision) return false
      await releaseClaim(tx, this.#lease, { due: { at }, isFailure: false })
      return true
    })
    return isUnchanged ? done : this.#reload()
  }

  async #store(build: (change: Change) => void): Promise<Turn> {
    const change = new Change(this.#snapshot)
    build(change)
    return this.#commit(change)
  }

  async #commit(change: Change): Promise<Turn> {
    return (await this.#tryStore(change)) ? again : this.#reload()
  }

  /** Stores a change; false where the run is no longer as the change found it. */
  async #tryStore(change: Change): Promise<boolean> {
    this.#lease.lost.throwIfAborted()
    const { database, stored } = this.#deps
    try {
      await database.tenant(this.#lease.workspaceId, (tx) => storeChange(tx, change), {
        name: "storeChange",
      })
    } catch (error) {
      if (error instanceof StaleChange) return false
      throw error
    }
    this.#snapshot = change.after()
    stored(change)
    return true
  }

  async #reload(): Promise<Turn> {
    const { workspaceId, runId, epoch } = this.#lease
    const snapshot = await this.#deps.database.tenant(workspaceId, async (tx) => {
      const taken = await takeSnapshot(tx, workspaceId, runId, epoch)
      if (taken === undefined) await dropClaim(tx, this.#lease)
      return taken
    })
    if (snapshot === undefined) return { kind: "overtaken" }
    this.#snapshot = snapshot
    return again
  }

  #watchDeadline(): void {
    const { run, clock } = this.#snapshot
    const left = run.deadline.getTime() - clock.now()
    // Node fires at once for what does not fit into 31 bits; a replica does not live that long.
    if (left < 2 ** 31) this.#deadline = setTimeout(() => this.#lease.cancel(), Math.max(0, left))
  }
}
