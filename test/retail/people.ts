/**
 * Who starts tasks as plan runs at the gateway, and confirms what waits: people with API keys, who repeat
 * each request under its one id until they are answered.
 *
 * A step that fails does not end its run: a task goes on after "not found".
 */
import type { CallOptions, Client, Transport } from "@connectrpc/connect"
import { ApiKeyService } from "../../gen/runwarden/gateway/v1/api_key_service_pb.ts"
import { ActorKind } from "../../gen/runwarden/gateway/v1/member_pb.ts"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { WorkspaceService } from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalState } from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { Answer, ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { OnError } from "../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import { type Run, RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { ToolCall } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { createMeshClient } from "../../mesh/client.ts"
import { createGatewayTransport } from "../../mesh/client-transport.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { toCallerError } from "../../mesh/interceptors.ts"
import { sleep } from "../adversity/faults.ts"
import type { Patience } from "../adversity/patience.ts"
import type { Task } from "./tasks.ts"

/** A workspace of one task. */
export interface Place {
  readonly workspaceId: string
  /** The options of calls that these people make. */
  readonly requester: CallOptions
  readonly approver: CallOptions
}

const pollMs = 120
/** A secret is told once: who opens a workspace waits for it, however busy the machine is. */
const callTimeoutMs = 30_000

/** How a task went. */
export interface Performed {
  readonly run: Pick<Run, "state" | "reason">
  readonly calls: readonly ToolCall[]
  readonly confirmed: number
}

/** The people of all workspaces, at one connection. */
export class People {
  readonly #patience: Patience
  readonly #operator: CallOptions
  readonly #transport: Transport
  readonly #runs: Client<typeof RunService>
  readonly #calls: Client<typeof ToolCallService>
  readonly #approvals: Client<typeof ApprovalService>

  constructor(edge: { readonly url: string; readonly operatorKey: string }, patience: Patience) {
    this.#patience = patience
    this.#operator = withKey(edge.operatorKey)
    this.#transport = createGatewayTransport({ url: edge.url })
    this.#runs = createMeshClient(RunService, this.#transport)
    this.#calls = createMeshClient(ToolCallService, this.#transport)
    this.#approvals = createMeshClient(ApprovalService, this.#transport)
  }

  /** A workspace with a member who asks, and an admin who confirms. */
  async openPlace(): Promise<Place> {
    const operator = createMeshClient(WorkspaceService, this.#transport)
    const { workspace, secret } = await operator.createWorkspace(
      { requestId: newId(), displayName: "Retail", adminDisplayName: "Ada" },
      this.#operator,
    )
    const workspaceId = workspace?.workspaceId ?? ""
    const approver = withKey(secret)
    const { member } = await createMeshClient(MembershipService, this.#transport).addMember(
      {
        ...{ workspaceId, requestId: newId(), displayName: "Mel" },
        role: Role.MEMBER,
        kind: ActorKind.USER,
      },
      approver,
    )
    const key = await createMeshClient(ApiKeyService, this.#transport).createApiKey(
      { workspaceId, requestId: newId(), actorId: member?.actorId ?? "", displayName: "Mel" },
      approver,
    )
    return { workspaceId, approver, requester: withKey(key.secret) }
  }

  /** Has the task done; undefined for one that asks for nothing. */
  async perform(task: Task, place: Place): Promise<Performed | undefined> {
    if (task.actions.length === 0) return undefined
    const { workspaceId, requester } = place
    const requestId = newId()
    const steps = task.actions.map(({ name, arguments: args }) => ({
      tool: `retail/${name}`,
      arguments: args,
      onError: OnError.CONTINUE,
    }))
    const plan = { name: task.id, steps }
    const started = await this.#ask("StartRun", place, () =>
      this.#runs.startRun({ workspaceId, requestId, plan }, requester),
    )
    const runId = started.run?.runId ?? ""
    for (;;) {
      const { run } = await this.#ask("GetRun", place, () =>
        this.#runs.getRun({ workspaceId, runId }, requester),
      )
      if (run === undefined || run.endTime !== undefined) {
        const confirmed = await this.#confirmedIn(place, runId)
        return { run: run as Run, calls: await this.#callsOf(place, runId), confirmed }
      }
      if (run.state === RunState.REQUIRES_ACTION) await this.#confirm(place, runId)
      await sleep(pollMs)
    }
  }

  /** Says yes to what the run waits for. */
  async #confirm(place: Place, runId: string): Promise<void> {
    const { workspaceId, approver } = place
    const { approvals } = await this.#ask("ListApprovals", place, () =>
      this.#approvals.listApprovals(
        { workspaceId, runId, states: [ApprovalState.PENDING] },
        approver,
      ),
    )
    for (const { approvalId, digest } of approvals) {
      const request = { workspaceId, requestId: newId(), approvalId, digest }
      await this.#ask("Decide", place, () =>
        this.#approvals
          .decide({ ...request, answer: Answer.APPROVE }, approver)
          .catch((error: unknown) => {
            // It has been asked anew meanwhile, and is in the next list.
            if (reasonOf(error) !== "APPROVAL_NOT_PENDING") throw error
          }),
      )
    }
  }

  /** How many of the run's approvals were given and used. */
  async #confirmedIn(place: Place, runId: string): Promise<number> {
    const { workspaceId, approver } = place
    const { approvals } = await this.#ask("ListApprovals", place, () =>
      this.#approvals.listApprovals({ workspaceId, runId, pageSize: 200 }, approver),
    )
    return approvals.filter(
      ({ state, consumeTime }) => state === ApprovalState.APPROVED && consumeTime !== undefined,
    ).length
  }

  async #callsOf(place: Place, runId: string): Promise<readonly ToolCall[]> {
    const { workspaceId, requester } = place
    const { toolCalls } = await this.#ask("ListToolCalls", place, () =>
      this.#calls.listToolCalls({ workspaceId, runId, pageSize: 200 }, requester),
    )
    const whole: ToolCall[] = []
    for (const { toolCallId } of toolCalls) {
      const { toolCall } = await this.#ask("GetToolCall", place, () =>
        this.#calls.getToolCall({ workspaceId, toolCallId }, requester),
      )
      if (toolCall !== undefined) whole.push(toolCall)
    }
    return whole
  }

  #ask<T>(what: string, { workspaceId }: Place, ask: () => Promise<T>): Promise<T> {
    return this.#patience.persist(what, workspaceId, () =>
      ask().catch((error: unknown) => {
        throw toCallerError(error, "gateway")
      }),
    )
  }
}

function withKey(apiKey: string): CallOptions {
  return { headers: { authorization: `Bearer ${apiKey}` }, timeoutMs: callTimeoutMs }
}
