/**
 * Starts runs and waits for their ends, as an internal client of the orchestrator does, or through
 * the edge with an API key. Remembers every run that was acknowledged.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { MessageInitShape } from "@bufbuild/protobuf"
import type { CallOptions, Client } from "@connectrpc/connect"
import { ActorKind } from "../gen/runwarden/gateway/v1/member_pb.ts"
import { MembershipService } from "../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { WorkspaceService } from "../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunState, RunStateSchema } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import {
  RunService,
  type StartRunRequestSchema,
} from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
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
  readonly acknowledged: readonly AcknowledgedRun[]
  /** One run of three steps, from its start to its end. */
  run(grouping: Grouping): Promise<void>
  /** The same through the edge. */
  runThroughEdge(grouping: Grouping): Promise<void>
  /** A run whose third step a person has to allow; milliseconds from the answer to the end. */
  approve(grouping: Grouping): Promise<number>
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

export async function createRunStarter(mesh: BenchMesh): Promise<RunStarter> {
  const runs = createMeshClient(RunService, mesh.orchestrator)
  const approvals = createMeshClient(ApprovalService, mesh.orchestrator)
  const workspaces = await Promise.all(
    Array.from({ length: workspaceCount }, () => addWorkspace(mesh)),
  )
  const acknowledged: AcknowledgedRun[] = []
  let started = 0

  function next(): { readonly workspace: BenchWorkspace; readonly number: number } {
    const number = started++
    const workspace = workspaces[number % workspaces.length]
    if (workspace === undefined) throw new Error("there are workspaces")
    return { workspace, number }
  }

  async function startAndWait(
    client: Client<typeof RunService>,
    request: Request,
    options: CallOptions | undefined,
  ): Promise<void> {
    const { run } = await client.startRun(request, options)
    const { workspaceId, runId = "" } = { ...request, runId: run?.runId }
    acknowledged.push({ workspaceId, runId })
    const watching = { ...options, timeoutMs: 0 }
    const state = await untilEnded(client.watchRun({ workspaceId, runId }, watching))
    requireSuccess(runId, state)
  }

  return {
    acknowledged,
    run(grouping) {
      const { workspace, number } = next()
      const request = requestOf(workspace.workspaceId, grouping, number, "record.write")
      return startAndWait(runs, request, actingAs(workspace.requester))
    },
    runThroughEdge(grouping) {
      const { workspace, number } = next()
      const request = requestOf(workspace.workspaceId, grouping, number, "record.write")
      return startAndWait(workspace.edge, request, undefined)
    },
    async approve(grouping) {
      const { workspace, number } = next()
      const { workspaceId, requester, approver } = workspace
      const request = requestOf(workspaceId, grouping, number, "record.release")
      const { run } = await runs.startRun(request, actingAs(requester))
      const runId = run?.runId ?? ""
      acknowledged.push({ workspaceId, runId })
      const life = new AbortController()
      const timeout = setTimeout(() => life.abort(new Error("a run took too long")), runTimeoutMs)
      const watching = actingAs(requester, { timeoutMs: 0, signal: life.signal })
      const waits = Promise.withResolvers<void>()
      const ended = untilEnded(runs.watchRun({ workspaceId, runId }, watching), waits.resolve)
      await Promise.race([waits.promise, ended])
      const list = await approvals.listApprovals({ workspaceId, runId }, actingAs(approver))
      const [waiting] = list.approvals
      if (waiting === undefined) throw new Error(`run ${runId} waits for nobody`)
      const { approvalId, digest } = waiting
      await sleep(settleMs)
      const at = performance.now()
      const answer = { workspaceId, requestId: newId(), approvalId, digest, answer: Answer.APPROVE }
      const decided = approvals.decide(answer, actingAs(approver))
      const state = await ended
      const took = performance.now() - at
      clearTimeout(timeout)
      await decided
      requireSuccess(runId, state)
      return took
    },
  }
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
  return { workspaceId, requestId: newId(), plan: { name: "three-records", steps } }
}

async function untilEnded(
  watched: ReturnType<Client<typeof RunService>["watchRun"]>,
  onWait?: () => void,
): Promise<RunState> {
  let state: RunState = RunState.UNSPECIFIED
  for await (const { event } of watched) {
    if (event?.kind.case !== "runStateChanged") continue
    state = event.kind.value.state
    if (state === RunState.REQUIRES_ACTION) onWait?.()
  }
  return state
}

function requireSuccess(runId: string, state: RunState): void {
  if (state === RunState.SUCCEEDED) return
  throw new Error(`run ${runId} ended as ${RunStateSchema.value[state]?.localName ?? state}`)
}

async function addWorkspace(mesh: BenchMesh): Promise<BenchWorkspace> {
  const { edgeUrl: url, operatorKey } = mesh
  const operator = createMeshClient(
    WorkspaceService,
    createGatewayTransport({ url, apiKey: operatorKey }),
  )
  const made = await operator.createWorkspace({
    requestId: newId(),
    displayName: "Bench",
    adminDisplayName: "Requester",
  })
  const workspaceId = made.workspace?.workspaceId ?? ""
  const transport = createGatewayTransport({ url, apiKey: made.secret, timeoutMs: runTimeoutMs })
  const { member } = await createMeshClient(MembershipService, transport).addMember({
    workspaceId,
    requestId: newId(),
    displayName: "Approver",
    role: Role.APPROVER,
    kind: ActorKind.USER,
  })
  return {
    workspaceId,
    requester: memberSubject(workspaceId, made.admin?.actorId ?? "", Role.ADMIN),
    approver: memberSubject(workspaceId, member?.actorId ?? "", Role.APPROVER),
    edge: createMeshClient(RunService, transport),
  }
}
