/**
 * Who answers what waits for a person: says yes to whatever asks, and settles by the provider's own
 * record what nobody else can.
 *
 * Owns: what is in hand; one person has one thing in hand once.
 */
import type { Client } from "@connectrpc/connect"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalState } from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { Answer, ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { ToolCallState } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import type { Cluster } from "./cluster.ts"
import type { History } from "./history.ts"
import { readLedger } from "./ledger-file.ts"
import type { Patience } from "./patience.ts"
import { as, type TestWorkspace } from "./test-workspace.ts"

export interface ApproverDeps {
  readonly cluster: Cluster
  readonly history: History
  readonly patience: Patience
  /** Whether the run is still looked after; one that a restore has undone is not. */
  isLive(runId: string): boolean
}

export class Approver {
  readonly #deps: ApproverDeps
  readonly #calls: Client<typeof ToolCallService>
  readonly #approvals: Client<typeof ApprovalService>
  readonly #inHand = new Set<string>()

  constructor(deps: ApproverDeps) {
    this.#deps = deps
    this.#calls = deps.cluster.client(ToolCallService, "orchestrator")
    this.#approvals = deps.cluster.client(ApprovalService, "orchestrator")
  }

  async answer(workspace: TestWorkspace): Promise<void> {
    await this.#approve(workspace)
    await this.#settle(workspace)
  }

  /** Says yes to whatever asks. */
  async #approve(workspace: TestWorkspace): Promise<void> {
    const { workspaceId, approverId } = workspace
    const asApprover = as(workspace, approverId, Role.APPROVER)
    const { approvals } = await this.#approvals.listApprovals(
      { workspaceId, states: [ApprovalState.PENDING], pageSize: 200 },
      asApprover,
    )
    for (const { approvalId, digest, runId } of approvals) {
      this.#once(approvalId, async () => {
        const requestId = newId()
        const { approval } = await this.#deps.patience.persist("Decide", workspaceId, () =>
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
        this.#deps.history.note({
          kind: "approval_decided",
          ...{ workspaceId, runId, approvalId, digest, deciderId: approverId, answer: "approved" },
        })
      })
    }
  }

  /** Settles what nobody knows by what the provider noted. */
  async #settle(workspace: TestWorkspace): Promise<void> {
    const { workspaceId, approverId } = workspace
    const asApprover = as(workspace, approverId, Role.APPROVER)
    const { toolCalls } = await this.#calls.listToolCalls(
      { workspaceId, states: [ToolCallState.OUTCOME_UNKNOWN], pageSize: 200 },
      asApprover,
    )
    for (const { toolCallId, runId, stepIndex, idempotencyKey } of toolCalls) {
      this.#once(toolCallId, async () => {
        const line = readLedger(this.#deps.cluster.ledgerFile).find(
          ({ kind, key }) => kind === "effect" && key === idempotencyKey,
        )
        const requestId = newId()
        const outcome =
          line === undefined
            ? ({ case: "error", value: { reason: "not_noted", message: "Looked it up." } } as const)
            : ({ case: "result", value: { next: line.text } } as const)
        await this.#deps.patience.persist("SettleToolCall", workspaceId, () =>
          this.#calls
            .settleToolCall({ workspaceId, requestId, toolCallId, outcome }, asApprover)
            .catch((error: unknown) => {
              // It was settled while it was being listed.
              if (reasonOf(error) === "ILLEGAL_TRANSITION" || this.#isGone(runId, error)) return
              throw error
            }),
        )
        this.#deps.history.note({ kind: "call_settled", workspaceId, runId, stepIndex })
      })
    }
  }

  /** Whether a restore has undone the run meanwhile. */
  #isGone(runId: string, error: unknown): boolean {
    return reasonOf(error) === "NOT_FOUND" && !this.#deps.isLive(runId)
  }

  /** One person has one thing in hand once. */
  #once(id: string, work: () => Promise<void>): void {
    if (this.#inHand.has(id)) return
    this.#inHand.add(id)
    work()
      .catch(() => {})
      .finally(() => this.#inHand.delete(id))
  }
}
