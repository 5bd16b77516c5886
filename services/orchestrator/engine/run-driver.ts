/**
 * Carries one run from where it stands to where it ends or waits.
 *
 * Owns: the order of what is done to the run; its last known state is held-run.ts's, and what a stored
 * change leads to run-turn.ts's.
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
 * 6. A result and the arguments that come next are judged side by side where the one does not depend
 *    on the other; nothing is judged before the call that comes before it has ended, so that a policy
 *    which was activated meanwhile holds.
 */

import type { Client } from "@connectrpc/connect"
import type { Tracer } from "@opentelemetry/api"
import type { MembershipService } from "../../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { backingOf } from "../approval/backing.ts"
import { Change } from "../change/change.ts"
import { giveBackMs } from "../config.ts"
import type { ApprovalRecord, RunRecord, Snapshot, ToolCallRecord } from "../run/snapshot.ts"
import { type CallEnd, type CallSetting, endCall, judgeOutcome } from "./call-end.ts"
import { executeCall, type Outcome, settleCall } from "./execution.ts"
import { HeldRun, type HeldRunDeps } from "./held-run.ts"
import type { Judgement } from "./judgement.ts"
import type { Lease } from "./lease.ts"
import { createRequester, goOnAsRequester, type Requester } from "./membership.ts"
import { askAgainAt, nextMove } from "./next-move.ts"
import { concludeCall, expire, passOn, quarantine } from "./outcome.ts"
import { askOutcome, settleFound } from "./outcome-asking.ts"
import type { RetryBudgets } from "./retry-budget.ts"
import { again, done, type Ending, type Origin, RunTurns, type Turn } from "./run-turn.ts"
import { inRunSpan } from "./span.ts"
import { prepareApproved, prepareStep, type StepDeps } from "./step.ts"
import type { Suspicion } from "./suspicion.ts"

export interface DriverDeps extends StepDeps, HeldRunDeps {
  readonly retries: RetryBudgets
  readonly membership: Client<typeof MembershipService>
  readonly tracer: Tracer
  isDraining(): boolean
}

export class RunDriver {
  readonly #deps: DriverDeps
  readonly #lease: Lease
  readonly #held: HeldRun
  readonly #turns: RunTurns
  readonly #requester: Requester
  readonly #setting: CallSetting
  readonly #origin: Origin

  constructor(deps: DriverDeps, lease: Lease, snapshot: Snapshot, origin: Origin) {
    this.#deps = deps
    this.#origin = origin
    this.#requester = createRequester(deps, origin.kind === "started")
    this.#lease = lease
    this.#held = new HeldRun(deps, lease, snapshot)
    this.#turns = new RunTurns(deps.database, this.#held, this.#suspicion)
    this.#setting = {
      lease,
      snapshot: () => this.#held.snapshot,
      mayGoOn: () => !deps.isDraining() && !this.#requester.isStale(),
    }
  }

  get #suspicion(): Suspicion | undefined {
    return this.#origin.kind === "continued" ? this.#origin.suspicion : undefined
  }

  /** The run as this replica last knew it. */
  get run(): RunRecord {
    return this.#held.snapshot.run
  }

  async drive(): Promise<Ending> {
    const { run, clock } = this.#held.snapshot
    const origin = this.#origin
    const isContinued = origin.kind === "continued"
    const now = () => this.run
    return inRunSpan(this.#deps.tracer, { now, isContinued }, async () => {
      this.#lease.stopAt(performance.now() + run.deadline.getTime() - clock.now())
      let turn: Turn = isContinued ? again : this.#turns.follow(origin.by)
      for (;;) {
        if (turn.kind === "again") turn = await this.#turn()
        else if (turn.kind === "execute") turn = await this.#execute(turn.call)
        else return turn
      }
    })
  }

  #turn(): Promise<Turn> | Turn {
    this.#lease.check()
    const move = nextMove(this.#held.snapshot, {
      crashes: this.#origin.kind === "continued" ? this.#origin.crashes : 0,
      maxCrashes: this.#deps.config.maxCrashes,
      isDraining: this.#deps.isDraining(),
    })
    switch (move.kind) {
      case "none":
        return done
      case "set_aside":
        return this.#turns.store(quarantine)
      case "rest":
        return this.#turns.restUntil(move.until)
      case "give_back":
        return { kind: "give_back", afterMs: 0 }
      case "expire":
        return this.#turns.store((change) => expire(change, move.reason))
      case "end_cancelled":
        return this.#turns.store((change) => change.moveRun({ kind: "call_ended" }))
      case "settle":
        return this.#settle(move.call, move.reason)
      case "execute_again":
        return this.#executeAgain(move.call)
      case "prepare":
        return move.mustWaitForTurn ? this.#prepareInTurn(move.call) : this.#prepare(move.call)
      case "use_approval":
        return this.#useApproval(move.call, move.approval)
      case "ask_outcome":
        return this.#askOutcome(move.call)
      case "pass_settled_on":
        return this.#passSettledOn(move.call)
    }
  }

  /** Begins once the runs of its thread that came before have ended. */
  async #prepareInTurn(call: ToolCallRecord): Promise<Turn> {
    const isFirst = await this.#held.takeTurn()
    if (isFirst === undefined) return { kind: "overtaken" }
    return isFirst ? this.#prepare(call) : done
  }

  #prepare(call: ToolCallRecord): Promise<Turn> {
    return this.#asMember((change) =>
      this.#admit(change, () =>
        prepareStep(this.#deps, change, call.stepIndex, this.#lease.stopped),
      ),
    )
  }

  async #useApproval(call: ToolCallRecord, approval: ApprovalRecord): Promise<Turn> {
    const { clock } = this.#held.snapshot
    if (clock.now() >= approval.expireTime.getTime()) {
      return this.#turns.store((change) => {
        change.moveCall(call.stepIndex, "revoke", { reason: "approval_expired" })
        change.moveRun({ kind: "expire", reason: "approval_expired" })
      })
    }
    // While the requester is asked about.
    const { lost, stopped } = this.#lease
    const backed = backingOf(this.#deps, approval, lost)
    return this.#asMember(async (change) => {
      const backing = await backed
      lost.throwIfEnded()
      if (backing === "unavailable") {
        return { kind: "give_back", afterMs: giveBackMs(this.#deps.config) }
      }
      const isBacked = backing === "stands"
      return this.#admit(change, () =>
        prepareApproved(this.#deps, change, approval, isBacked, stopped),
      )
    })
  }

  /** Records what became of a call that nobody knew of, or rests until it is time to ask again. */
  async #askOutcome(call: ToolCallRecord): Promise<Turn> {
    const { run, clock } = this.#held.snapshot
    const found = await askOutcome(this.#deps, run, call, this.#lease.lost)
    if (found !== undefined) {
      return this.#turns.store((change) => settleFound(change, call.stepIndex, found))
    }
    return this.#turns.restUntil(askAgainAt(call.updateTime, run.deadline, clock.now()))
  }

  /** The current call was settled: its result is judged and passed on like any other. */
  async #passSettledOn(call: ToolCallRecord): Promise<Turn> {
    return this.#asMember(async (change) => {
      const judgement = await judgeOutcome(this.#deps, this.#setting, call)
      passOn(change, call.stepIndex, judgement)
      return this.#turns.commit(change)
    })
  }

  /** Goes on as the requester, who may have to be asked about first; a run that waited resumes. */
  async #asMember(goOn: (change: Change) => Promise<Turn>): Promise<Turn> {
    const change = new Change(this.#held.snapshot)
    switch (await goOnAsRequester(this.#requester, change, this.#lease.lost)) {
      case "unavailable":
        return { kind: "give_back", afterMs: giveBackMs(this.#deps.config) }
      case "revoked":
        return this.#turns.commit(change)
      case "member":
        return goOn(change)
    }
  }

  /** Prepares for as long as the lease and the run last, stores, and executes what was admitted. */
  async #admit(change: Change, prepare: () => Promise<void>): Promise<Turn> {
    const { lost, stopped } = this.#lease
    try {
      await prepare()
    } catch (error) {
      lost.throwIfEnded()
      if (!stopped.isEnded) throw error
      return this.#turns.reload()
    }
    return this.#turns.commit(change)
  }

  /** A call that an earlier owner began: sent again under the same key, after counting it. */
  async #executeAgain(call: ToolCallRecord): Promise<Turn> {
    const change = new Change(this.#held.snapshot)
    change.setCall(call.stepIndex, { attempts: call.attempts + 1 })
    return this.#turns.commit(change)
  }

  #execute(call: ToolCallRecord): Promise<Turn> {
    this.#deps.reached("after_intent")
    return this.#endCall(call, () => {
      const { snapshot } = this.#held
      return executeCall(this.#deps, snapshot.run, call, this.#lease, snapshot.clock)
    })
  }

  #settle(call: ToolCallRecord, reason: string): Promise<Turn> {
    const { lost } = this.#lease
    return this.#endCall(call, () => settleCall(this.#deps, this.run, call, reason, lost))
  }

  async #endCall(call: ToolCallRecord, work: () => Promise<Outcome>): Promise<Turn> {
    const end = await endCall(this.#deps, this.#setting, call, work)
    return this.#conclude(call, end)
  }

  /** Stores what came back, however often the run changed under it in the meantime. */
  async #conclude({ stepIndex }: ToolCallRecord, { conclusion, ahead }: CallEnd): Promise<Turn> {
    for (let isFirst = true; ; isFirst = false) {
      const change = new Change(this.#held.snapshot)
      concludeCall(change, stepIndex, conclusion)
      if (isFirst && change.run.state === "running" && this.#setting.mayGoOn()) {
        const joined = await this.#goOn(change, ahead)
        if (joined !== undefined) return joined
      } else {
        const stored = await this.#turns.tryCommit(change)
        if (stored !== undefined) return stored
      }
      const turn = await this.#turns.reload()
      if (turn.kind !== "again") return turn
    }
  }

  /**
   * Prepares the next step and stores it together with the outcome: one commit for both. Should the
   * process vanish before, the ledger still has the outcome. Undefined where the outcome must be
   * stored by itself.
   */
  async #goOn(change: Change, ahead: Judgement | undefined): Promise<Turn | undefined> {
    const { lost, stopped } = this.#lease
    try {
      await prepareStep(this.#deps, change, change.run.stepIndex, stopped, ahead)
    } catch {
      lost.throwIfEnded()
      return undefined
    }
    return this.#turns.tryCommit(change)
  }
}
