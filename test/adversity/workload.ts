/**
 * Clients that never give up: they start runs, answer approvals, settle what nobody can tell, and
 * cancel, each request repeated under its one id until it is acknowledged.
 *
 * Owns: the workspaces of one scenario, and what is known of their runs; the answers are approver.ts's.
 */
import type { Client } from "@connectrpc/connect"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { type Run, RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { type Reason, reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { Approver } from "./approver.ts"
import type { Cluster } from "./cluster.ts"
import { sleep } from "./faults.ts"
import type { History, StartedRun } from "./history.ts"
import { Patience } from "./patience.ts"
import { planRun, type RunShape } from "./plans.ts"
import { addWorkspace, as, type TestWorkspace } from "./test-workspace.ts"

interface LiveRun {
  readonly started: StartedRun
  readonly workspace: TestWorkspace
  readonly ended: PromiseWithResolvers<void>
}

const pollMs = 250
const stateNames = new Map<number, string>(
  Object.entries(RunState).map(([name, value]) => [value, name.toLowerCase()]),
)

export class Workload implements AsyncDisposable {
  readonly #history: History
  readonly #runs: Client<typeof RunService>
  readonly #patience: Patience
  readonly #approver: Approver
  readonly #live = new Map<string, LiveRun>()
  readonly #all: LiveRun[] = []
  readonly #starting = new Set<Promise<void>>()
  readonly #stop = new AbortController()
  readonly #loops: Promise<void>[] = []
  readonly workspaces: readonly TestWorkspace[]
  #count = 0
  startedCount = 0
  endedCount = 0

  private constructor(
    cluster: Cluster,
    history: History,
    workspaces: readonly TestWorkspace[],
    mayRefuse: readonly Reason[],
  ) {
    this.#history = history
    this.#patience = new Patience(history, mayRefuse, this.#stop.signal)
    this.#approver = new Approver({
      ...{ cluster, history, patience: this.#patience },
      isLive: (runId) => this.#live.has(runId),
    })
    this.workspaces = workspaces
    this.#runs = cluster.client(RunService, "orchestrator")
    this.#loops = workspaces.map((workspace) => this.#watch(workspace))
  }

  /** Makes the workspaces and their people, then watches. */
  static async open(
    cluster: Cluster,
    history: History,
    options: { readonly workspaces: number; readonly mayRefuse?: readonly Reason[] },
  ): Promise<Workload> {
    const workspaces: TestWorkspace[] = []
    for (let n = 0; n < options.workspaces; n++)
      workspaces.push(await addWorkspace(cluster, history))
    return new Workload(cluster, history, workspaces, options.mayRefuse ?? [])
  }

  get liveCount(): number {
    return this.#live.size
  }

  /** Starts runs of these shapes, at most so many live at once; resolves when all are acknowledged. */
  async start(shapes: readonly RunShape[], maxLive: number): Promise<void> {
    for (const shape of shapes) {
      while (this.#live.size + this.#starting.size >= maxLive) await sleep(10)
      // What broke off has been noted.
      const work = this.#startOne(shape)
        .catch(() => {})
        .finally(() => this.#starting.delete(work))
      this.#starting.add(work)
    }
    await Promise.all(this.#starting)
  }

  /** Waits until every run has ended; false where one has not by then. */
  async settled(timeoutMs: number): Promise<boolean> {
    const end = Date.now() + timeoutMs
    while (this.#live.size > 0 && Date.now() < end) await sleep(50)
    return this.#live.size === 0
  }

  /** Looks again after runs that had ended before a restore. */
  revive(runIds: ReadonlySet<string>): void {
    for (const { started, workspace } of this.#all) {
      if (!runIds.has(started.runId) || this.#live.has(started.runId)) continue
      this.#live.set(started.runId, { started, workspace, ended: Promise.withResolvers<void>() })
    }
  }

  /** Gives up runs that a restore undid. */
  forget(runIds: ReadonlySet<string>): void {
    for (const { started, ended } of [...this.#live.values()]) {
      if (!runIds.has(started.runId)) continue
      ended.resolve()
      this.#live.delete(started.runId)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort()
    await Promise.all(this.#loops)
  }

  async #startOne(shape: RunShape): Promise<void> {
    const number = this.#count++
    const workspace = this.workspaces[number % this.workspaces.length]
    if (workspace === undefined) throw new Error("no workspace")
    const { workspaceId, memberId } = workspace
    const requestId = newId()
    const { plan, steps } = planRun(`run ${number}`, shape)
    const { run } = await this.#patience.persist("StartRun", workspaceId, () =>
      this.#runs.startRun({ workspaceId, requestId, plan }, as(workspace, memberId, Role.MEMBER)),
    )
    const runId = run?.runId ?? ""
    const note = {
      kind: "run_started" as const,
      ...{ workspaceId, runId, requestId, requesterId: memberId, steps },
    }
    this.#history.note(note)
    this.startedCount++
    const live = {
      started: { at: Date.now(), ...note },
      workspace,
      ended: Promise.withResolvers<void>(),
    }
    this.#live.set(runId, live)
    this.#all.push(live)
    if (shape.cancelAfterMs !== undefined) this.#cancelLater(live, shape.cancelAfterMs)
  }

  #cancelLater({ started, workspace, ended }: LiveRun, afterMs: number): void {
    const { workspaceId, runId } = started
    const requestId = newId()
    const cancel = async () => {
      await Promise.race([sleep(afterMs), ended.promise])
      const as_ = as(workspace, workspace.memberId, Role.MEMBER)
      const answer = await this.#patience.persist("CancelRun", workspaceId, () =>
        this.#runs.cancelRun({ workspaceId, runId, requestId }, as_).catch((error: unknown) => {
          // It has ended by itself.
          if (reasonOf(error) === "ILLEGAL_TRANSITION") return undefined
          throw error
        }),
      )
      if (answer !== undefined) this.#history.note({ kind: "run_cancelled", workspaceId, runId })
    }
    void cancel().catch(() => {})
  }

  /** Looks after one workspace: who has ended, who waits for whom. */
  async #watch(workspace: TestWorkspace): Promise<void> {
    const { workspaceId } = workspace
    while (!this.#stop.signal.aborted) {
      await sleep(pollMs)
      const mine = [...this.#live.values()].filter((live) => live.workspace === workspace)
      if (mine.length === 0) continue
      try {
        const live = await this.#liveRuns(workspace)
        for (const run of live.values()) this.#see(workspaceId, run)
        for (const { started } of mine) {
          if (!live.has(started.runId)) await this.#lookAt(workspace, started.runId)
        }
        const waiting = [...live.values()].filter(({ state }) => state === RunState.REQUIRES_ACTION)
        if (waiting.length > 0) await this.#approver.answer(workspace)
      } catch (error) {
        this.#patience.judge("watch", workspaceId, error)
      }
    }
  }

  /** A run that is not live any more. One that is not there at all is given up: the checker will say. */
  async #lookAt(workspace: TestWorkspace, runId: string): Promise<void> {
    const { workspaceId, memberId } = workspace
    const asMember = as(workspace, memberId, Role.MEMBER)
    try {
      const { run } = await this.#runs.getRun({ workspaceId, runId }, asMember)
      if (run !== undefined) this.#see(workspaceId, run)
    } catch (error) {
      if (reasonOf(error) !== "NOT_FOUND") throw error
      this.forget(new Set([runId]))
    }
  }

  async #liveRuns(workspace: TestWorkspace): Promise<ReadonlyMap<string, Run>> {
    const { workspaceId, memberId } = workspace
    const states = [
      RunState.QUEUED,
      RunState.RUNNING,
      RunState.REQUIRES_ACTION,
      RunState.CANCELLING,
    ]
    const found = new Map<string, Run>()
    let pageToken = ""
    do {
      const page = await this.#runs.listRuns(
        { workspaceId, states, pageSize: 200, pageToken },
        as(workspace, memberId, Role.MEMBER),
      )
      for (const run of page.runs) found.set(run.runId, run)
      pageToken = page.nextPageToken
    } while (pageToken !== "")
    return found
  }

  #see(workspaceId: string, run: Run): void {
    const { runId } = run
    const isTerminal = run.endTime !== undefined
    const state = stateNames.get(run.state) ?? ""
    this.#history.note({ kind: "run_seen", workspaceId, runId, state, isTerminal })
    const live = this.#live.get(runId)
    if (!isTerminal || live === undefined) return
    live.ended.resolve()
    this.#live.delete(runId)
    this.endedCount++
  }
}
