/**
 * Clients that never give up: they start runs, answer approvals, settle what nobody can tell, and
 * cancel, each request repeated under its one id until it is acknowledged.
 *
 * Owns: the workspaces of one scenario, their people, and what is known of their runs.
 */
import type { Client, ConnectError } from "@connectrpc/connect"
import { ActorKind } from "../../gen/runwarden/gateway/v1/member_pb.ts"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { WorkspaceService } from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalState } from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { Answer, ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { type Run, RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallState } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { createMeshClient } from "../../mesh/client.ts"
import { createGatewayTransport } from "../../mesh/client-transport.ts"
import { type Reason, reasonOf } from "../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import type { Cluster } from "./cluster.ts"
import type { History, StartedRun } from "./history.ts"
import { readLedger } from "./ledger-file.ts"
import { planRun, type RunShape } from "./plans.ts"
import { createRandom } from "./random.ts"

export interface TestWorkspace {
  readonly workspaceId: string
  readonly adminId: string
  readonly memberId: string
  readonly approverId: string
}

interface LiveRun {
  readonly started: StartedRun
  readonly workspace: TestWorkspace
  readonly ended: PromiseWithResolvers<void>
}

const callTimeoutMs = 4_000
const pollMs = 250
/** What a fault may do to any request; everything else is a surprise. */
const passing: readonly Reason[] = [
  "DEPENDENCY_UNAVAILABLE",
  "DEADLINE_EXCEEDED",
  "SHUTTING_DOWN",
  "CANCELLED",
  "LIMIT_EXCEEDED",
]

const stateNames = new Map<number, string>(
  Object.entries(RunState).map(([name, value]) => [value, name.toLowerCase()]),
)

export class Workload implements AsyncDisposable {
  readonly #cluster: Cluster
  readonly #history: History
  readonly #passing: ReadonlySet<Reason | undefined>
  readonly #runs: Client<typeof RunService>
  readonly #calls: Client<typeof ToolCallService>
  readonly #approvals: Client<typeof ApprovalService>
  readonly #live = new Map<string, LiveRun>()
  readonly #all: LiveRun[] = []
  readonly #starting = new Set<Promise<void>>()
  readonly #answering = new Set<string>()
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
    this.#passing = new Set([...passing, ...mayRefuse])
    this.#cluster = cluster
    this.#history = history
    this.workspaces = workspaces
    this.#runs = cluster.client(RunService, "orchestrator")
    this.#calls = cluster.client(ToolCallService, "orchestrator")
    this.#approvals = cluster.client(ApprovalService, "orchestrator")
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
    const { run } = await this.#persist("StartRun", workspaceId, () =>
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
      const answer = await this.#persist("CancelRun", workspaceId, () =>
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
        if (waiting.length > 0) await this.#answer(workspace)
      } catch (error) {
        this.#judge("watch", workspaceId, error)
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

  /** Says yes to whatever asks, and settles by the provider's own record what nobody else can. */
  async #answer(workspace: TestWorkspace): Promise<void> {
    const { workspaceId, approverId } = workspace
    const asApprover = as(workspace, approverId, Role.APPROVER)
    const { approvals } = await this.#approvals.listApprovals(
      { workspaceId, states: [ApprovalState.PENDING], pageSize: 200 },
      asApprover,
    )
    for (const { approvalId, digest, runId } of approvals) {
      this.#once(approvalId, async () => {
        const requestId = newId()
        const { approval } = await this.#persist("Decide", workspaceId, () =>
          this.#approvals
            .decide(
              { workspaceId, requestId, approvalId, digest, answer: Answer.APPROVE },
              asApprover,
            )
            .catch((error: unknown) => {
              // Its run was cancelled meanwhile.
              if (reasonOf(error) === "APPROVAL_NOT_PENDING" || this.#isGone(runId, error)) {
                return { approval: undefined }
              }
              throw error
            }),
        )
        if (approval?.state !== ApprovalState.APPROVED) return
        this.#history.note({
          kind: "approval_decided",
          ...{ workspaceId, runId, approvalId, digest, deciderId: approverId, answer: "approved" },
        })
      })
    }
    const { toolCalls } = await this.#calls.listToolCalls(
      { workspaceId, states: [ToolCallState.OUTCOME_UNKNOWN], pageSize: 200 },
      asApprover,
    )
    for (const { toolCallId, runId, stepIndex, idempotencyKey } of toolCalls) {
      this.#once(toolCallId, async () => {
        const line = readLedger(this.#cluster.ledgerFile).find(
          ({ kind, key }) => kind === "effect" && key === idempotencyKey,
        )
        const requestId = newId()
        const outcome =
          line === undefined
            ? ({ case: "error", value: { reason: "not_noted", message: "Looked it up." } } as const)
            : ({ case: "result", value: { next: line.text } } as const)
        await this.#persist("SettleToolCall", workspaceId, () =>
          this.#calls
            .settleToolCall({ workspaceId, requestId, toolCallId, outcome }, asApprover)
            .catch((error: unknown) => {
              // It was settled while it was being listed.
              if (reasonOf(error) === "ILLEGAL_TRANSITION" || this.#isGone(runId, error)) return
              throw error
            }),
        )
        this.#history.note({ kind: "call_settled", workspaceId, runId, stepIndex })
      })
    }
  }

  /** Whether a restore has undone the run meanwhile. */
  #isGone(runId: string, error: unknown): boolean {
    return reasonOf(error) === "NOT_FOUND" && !this.#live.has(runId)
  }

  /** One person has one thing in hand once. */
  #once(id: string, work: () => Promise<void>): void {
    if (this.#answering.has(id)) return
    this.#answering.add(id)
    work()
      .catch(() => {})
      .finally(() => this.#answering.delete(id))
  }

  /** Asks until there is an answer, or one that no fault explains. */
  async #persist<T>(what: string, workspaceId: string, ask: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await ask()
      } catch (error) {
        if (this.#stop.signal.aborted || !this.#judge(what, workspaceId, error)) throw error
        await sleep(50 + Math.random() * 100)
      }
    }
  }

  /** Whether a fault explains this; a surprise is noted. */
  #judge(what: string, workspaceId: string, error: unknown): boolean {
    const reason = reasonOf(error)
    if (this.#passing.has(reason)) return true
    const text = reason ?? (error as ConnectError).message ?? String(error)
    this.#history.note({ kind: "surprise", workspaceId, what: `${what}: ${text}` })
    return false
  }
}

/** Runs whose classes take turns; every so-manieth has a step that needs a yes. */
export function mixedShapes(
  count: number,
  seed: number,
  every: Partial<RunShape> = {},
): RunShape[] {
  const random = createRandom(seed)
  return Array.from({ length: count }, (_, n): RunShape => {
    const effect = (["read", "keyed", "unsafe"] as const)[n % 3] ?? "read"
    return {
      effect,
      stepCount: 3,
      ...(random.next() < 0.25 ? { highStep: Math.floor(random.between(0, 3)) } : {}),
      ...(effect === "unsafe" && random.next() < 0.25 ? { isBlind: true } : {}),
      ...every,
    }
  })
}

async function addWorkspace(cluster: Cluster, history: History): Promise<TestWorkspace> {
  const operator = createMeshClient(
    WorkspaceService,
    createGatewayTransport({ url: cluster.edgeUrl, apiKey: cluster.operatorKey }),
  )
  const { workspace, admin, secret } = await operator.createWorkspace({
    requestId: newId(),
    displayName: "Adversity",
    adminDisplayName: "Ada",
  })
  const workspaceId = workspace?.workspaceId ?? ""
  const members = createMeshClient(
    MembershipService,
    createGatewayTransport({ url: cluster.edgeUrl, apiKey: secret }),
  )
  const add = async (displayName: string, role: Role) => {
    const kind = ActorKind.USER
    const request = { workspaceId, requestId: newId(), displayName, role, kind }
    const { member } = await members.addMember(request)
    return member?.actorId ?? ""
  }
  const memberId = await add("Mel", Role.MEMBER)
  const approverId = await add("Abe", Role.APPROVER)
  const adminId = admin?.actorId ?? ""
  for (const [actorId, role] of [
    [adminId, "admin"],
    [memberId, "member"],
    [approverId, "approver"],
  ] as const) {
    history.note({ kind: "member_added", workspaceId, actorId, role })
  }
  return { workspaceId, adminId, memberId, approverId }
}

function as({ workspaceId }: TestWorkspace, actorId: string, role: Role) {
  return actingAs(memberSubject(workspaceId, actorId, role), { timeoutMs: callTimeoutMs })
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
