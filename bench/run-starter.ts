/**
 * Starts runs and waits for their ends, as an internal client of the orchestrator does, or through
 * the edge with an API key. Remembers every run that was acknowledged.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { MessageInitShape } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import type { CallOptions, Client } from "@connectrpc/connect"
import { ActorKind } from "../gen/runwarden/gateway/v1/member_pb.ts"
import { MembershipService } from "../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { WorkspaceService } from "../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunState, RunStateSchema } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { StartRunRequestSchema } from "../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { createGatewayTransport } from "../mesh/client-transport.ts"
import { actingAs, memberSubject, type Subject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import type { BenchMesh } from "./bench-mesh.ts"
import type { Grouping } from "./effect-provider.ts"

export interface AcknowledgedRun {
  readonly workspaceId: string
  readonly runId: string
}

export interface RunStarter {
  readonly members: readonly BenchMembers[]
  readonly acknowledged: readonly AcknowledgedRun[]
  /** One run of three steps, from its start to its end. */
  run(grouping: Grouping): Promise<void>
  /** The same through the edge. */
  runThroughEdge(grouping: Grouping): Promise<void>
  /** A run whose third step a person has to allow; milliseconds from the answer to the end. */
  approve(grouping: Grouping): Promise<number>
  /** One run in each workspace that has ended, and one that waits for a person. */
  seed(): Promise<{
    readonly finished: readonly AcknowledgedRun[]
    readonly waiting: readonly AcknowledgedRun[]
  }>
}

/** A workspace's requester, who is its admin, and its approver. */
export interface BenchMembers {
  readonly workspaceId: string
  readonly requesterId: string
  readonly approverId: string
  /** The requester's. */
  readonly apiKey: string
}

interface BenchWorkspace {
  readonly workspaceId: string
  readonly requester: Subject
  readonly approver: Subject
  readonly edge: Client<typeof RunService>
}

const workspaceCount = 16
const stepCount = 3
/** Between a run's wait and its answer, so that all that belongs to the wait is done. */
const settleMs = 25
const runTimeoutMs = 30_000

/** Starts runs for these members, or for those of sixteen new workspaces. */
export async function createRunStarter(
  mesh: BenchMesh,
  given: readonly BenchMembers[] = [],
): Promise<RunStarter> {
  const runs = createMeshClient(RunService, mesh.orchestrator)
  const approvals = createMeshClient(ApprovalService, mesh.orchestrator)
  const members = [...given]
  if (members.length === 0) {
    const adding = Array.from({ length: workspaceCount }, () => addWorkspace(mesh))
    members.push(...(await Promise.all(adding)))
  }
  const workspaces = members.map((its) => workspaceOf(its, mesh.edgeUrl))
  const acknowledged: AcknowledgedRun[] = []
  let started = 0

  function next(): { readonly workspace: BenchWorkspace; readonly number: number } {
    const number = started++
    const workspace = workspaces[number % workspaces.length]
    if (workspace === undefined) throw new Error("there are workspaces")
    return { workspace, number }
  }

  async function start(
    client: Client<typeof RunService>,
    request: Request,
    options: CallOptions | undefined,
  ): Promise<RestingRun> {
    const { run } = await client.startRun(request, options)
    if (run === undefined) throw new Error("an answer without its run")
    const { workspaceId, runId, state } = run
    acknowledged.push({ workspaceId, runId })
    return { workspaceId, runId, state }
  }

  return {
    members,
    acknowledged,
    async run(grouping) {
      const { workspace, number } = next()
      const request = requestOf(workspace.workspaceId, grouping, number, "record.write")
      require(await start(runs, request, waiting(workspace.requester)), RunState.SUCCEEDED)
    },
    async runThroughEdge(grouping) {
      const { workspace, number } = next()
      const request = requestOf(workspace.workspaceId, grouping, number, "record.write")
      require(await start(workspace.edge, request, undefined), RunState.SUCCEEDED)
    },
    async approve(grouping) {
      const { workspace, number } = next()
      const { workspaceId, requester, approver } = workspace
      const request = requestOf(workspaceId, grouping, number, "record.release")
      const run = await start(runs, request, waiting(requester))
      require(run, RunState.REQUIRES_ACTION)
      const { runId } = run
      const signal = AbortSignal.timeout(runTimeoutMs)
      const watching = actingAs(requester, { timeoutMs: 0, signal })
      const ended = stateIn(runs.watchRun({ workspaceId, runId }, watching), isTerminal)
      const list = await approvals.listApprovals({ workspaceId, runId }, actingAs(approver))
      const [approval] = list.approvals
      if (approval === undefined) throw new Error(`run ${runId} waits for nobody`)
      const { approvalId, digest } = approval
      await sleep(settleMs)
      const at = performance.now()
      const answer = { workspaceId, requestId: newId(), approvalId, digest, answer: Answer.APPROVE }
      const decided = approvals.decide(answer, actingAs(approver))
      const state = await ended
      const took = performance.now() - at
      await decided
      require({ ...run, state }, RunState.SUCCEEDED)
      return took
    },
    async seed() {
      const originals = async (lastTool: string, state: RunState) => {
        const found: AcknowledgedRun[] = []
        for (const [number, { workspaceId, requester }] of workspaces.entries()) {
          const request = requestOf(workspaceId, "grouped", number, lastTool)
          const run = await start(runs, request, waiting(requester))
          require(run, state)
          found.push({ workspaceId, runId: run.runId })
        }
        return found
      }
      return {
        finished: await originals("record.write", RunState.SUCCEEDED),
        waiting: await originals("record.release", RunState.REQUIRES_ACTION),
      }
    },
  }
}

interface RestingRun extends AcknowledgedRun {
  readonly state: RunState
}

/** For a call that answers when the run rests. */
function waiting(subject: Subject): CallOptions {
  return actingAs(subject, { timeoutMs: runTimeoutMs + 1_000 })
}

function isTerminal(state: RunState): boolean {
  return state >= RunState.SUCCEEDED
}

type Request = MessageInitShape<typeof StartRunRequestSchema> & { readonly workspaceId: string }

/** Every call's arguments are its own. */
function requestOf(
  workspaceId: string,
  grouping: Grouping,
  number: number,
  lastTool: string,
): Request {
  const steps = Array.from({ length: stepCount }, (_, step) => ({
    tool: `${grouping}/${step === stepCount - 1 ? lastTool : "record.write"}`,
    arguments: {
      step,
      amount: (step + 1) * 10,
      note: `Entry ${number}.${step}: the shipment was counted, weighed and put on its shelf by hand.`,
    },
  }))
  const plan = { name: "three-records", steps }
  return { workspaceId, requestId: newId(), plan, wait: durationFromMs(runTimeoutMs) }
}

/** Reads the history until it comes to such a state. */
async function stateIn(
  watched: ReturnType<Client<typeof RunService>["watchRun"]>,
  isSought: (state: RunState) => boolean,
): Promise<RunState> {
  for await (const { event } of watched) {
    if (event?.kind.case !== "runStateChanged") continue
    const { state } = event.kind.value
    if (isSought(state)) return state
  }
  return RunState.UNSPECIFIED
}

function require({ runId, state }: RestingRun, expected: RunState): void {
  if (state === expected) return
  throw new Error(`run ${runId} came to ${RunStateSchema.value[state]?.localName ?? state}`)
}

async function addWorkspace({ edgeUrl: url, operatorKey }: BenchMesh): Promise<BenchMembers> {
  const operator = createMeshClient(
    WorkspaceService,
    createGatewayTransport({ url, apiKey: operatorKey }),
  )
  const made = await operator.createWorkspace({
    requestId: newId(),
    displayName: "Bench",
    adminDisplayName: "Requester",
  })
  const { secret: apiKey, workspace, admin } = made
  const workspaceId = workspace?.workspaceId ?? ""
  const transport = createGatewayTransport({ url, apiKey })
  const { member } = await createMeshClient(MembershipService, transport).addMember({
    workspaceId,
    requestId: newId(),
    displayName: "Approver",
    role: Role.APPROVER,
    kind: ActorKind.USER,
  })
  const requesterId = admin?.actorId ?? ""
  return { workspaceId, requesterId, approverId: member?.actorId ?? "", apiKey }
}

function workspaceOf(members: BenchMembers, url: string): BenchWorkspace {
  const { workspaceId, requesterId, approverId, apiKey } = members
  const transport = createGatewayTransport({ url, apiKey, timeoutMs: runTimeoutMs + 1_000 })
  return {
    workspaceId,
    requester: memberSubject(workspaceId, requesterId, Role.ADMIN),
    approver: memberSubject(workspaceId, approverId, Role.APPROVER),
    edge: createMeshClient(RunService, transport),
  }
}
