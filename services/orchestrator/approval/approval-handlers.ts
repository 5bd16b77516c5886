import { create, type MessageShape } from "@bufbuild/protobuf"
import type { Client, ServiceImpl } from "@connectrpc/connect"
import type { MembershipService } from "../../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import {
  Answer,
  ApprovalService,
  type BreakGlassResponseSchema,
  type DecideAsDelegateRequest,
  type DecideAsDelegateResponseSchema,
  type DecideResponseSchema,
} from "../../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { Tx } from "../../../mesh/database.ts"
import { notFound, RunwardenError } from "../../../mesh/errors.ts"
import { actingAs, callerOf, serviceSubject } from "../../../mesh/identity.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import type { Change } from "../change/change.ts"
import { type AnsweredChangeDeps, answerChanging } from "../run/answered-change.ts"
import { answerApproval, notAllowed } from "../run/answers.ts"
import { keptApproval } from "../run/kept-answers.ts"
import type { ApprovalRecord } from "../run/snapshot.ts"
import { readSnapshot } from "../run/snapshot-store.ts"
import { approvalStateEnum, wordOf } from "../state-enum.ts"
import { refuseNul } from "../text.ts"
import type { GivenAnswer } from "./approval-answer.ts"
import { toApproval } from "./approval-message.ts"
import { findApproval, listApprovals } from "./approval-store.ts"
import { findDelegation } from "./delegation-store.ts"

export interface ApprovalHandlerDeps extends AnsweredChangeDeps {
  readonly membership: Client<typeof MembershipService>
}

const sizes = { default: 50, max: 200 }
const membershipTimeoutMs = 5_000

/** ApprovalService. */
export function approvalHandlers(deps: ApprovalHandlerDeps) {
  const { database } = deps
  return {
    async listApprovals(request, { signal }) {
      const { workspaceId, runId } = request
      const states = request.states.flatMap((state) => wordOf(approvalStateEnum, state) ?? [])
      const filters = { workspaceId, runId, states }
      const { limit, after } = readPage(request, filters, sizes)
      const approvals = await database.tenant(
        workspaceId,
        (tx) => {
          const page = { limit: limit + 1, after: after?.[0] }
          return listApprovals(tx, workspaceId, { runId, states }, page)
        },
        { signal },
      )
      const page = approvals.slice(0, limit)
      const last = page.at(-1)?.approvalId ?? ""
      return {
        approvals: page.map((approval) => toApproval(approval, "listed")),
        nextPageToken: approvals.length > limit ? nextPage(filters, [last]) : "",
      }
    },

    async getApproval({ workspaceId, approvalId }, { signal }) {
      const approval = await database.tenant(
        workspaceId,
        (tx) => findApproval(tx, workspaceId, approvalId),
        { signal },
      )
      if (approval === undefined) throw notFound("approval", approvalId)
      return { approval: toApproval(approval) }
    },

    decide(request, context) {
      refuseNul({ comment: request.comment })
      const { actorId, role } = callerOf(context)
      const given = {
        ...{ actorId, role, comment: request.comment },
        ...{ answer: toAnswer(request.answer), delegation: undefined, breakGlassReason: undefined },
      }
      const { decide: method } = ApprovalService.method
      const decide = async (tx: Tx) => answered(await answerTo(tx, request, given), method.output)
      return answerChanging(deps, method, request, decide, keptApproval, context.signal)
    },

    async decideAsDelegate(request, context) {
      refuseNul({ comment: request.comment })
      const { actorId } = callerOf(context)
      const found = await delegated(deps, request, actorId, context.signal)
      const { decideAsDelegate: method } = ApprovalService.method
      const decide = async (tx: Tx) => {
        // In here, so that a request which was answered before gets that answer instead.
        if (found instanceof RunwardenError) throw found
        const { comment } = request
        const given = { ...found, actorId, comment, breakGlassReason: undefined }
        const answer = toAnswer(request.answer)
        return answered(await answerTo(tx, request, { ...given, answer }), method.output)
      }
      return answerChanging(deps, method, request, decide, keptApproval, context.signal)
    },

    breakGlass(request, context) {
      refuseNul({ reason: request.reason })
      const { actorId, role } = callerOf(context)
      const given = {
        ...{ actorId, role, comment: "", answer: "approve" as const, delegation: undefined },
        breakGlassReason: request.reason,
      }
      const { breakGlass: method } = ApprovalService.method
      const decide = async (tx: Tx) => answered(await answerTo(tx, request, given), method.output)
      return answerChanging(deps, method, request, decide, keptApproval, context.signal)
    },
  } satisfies ServiceImpl<typeof ApprovalService>
}

interface Addressed {
  readonly workspaceId: string
  readonly approvalId: string
  readonly digest: string
}

/** The approval with the answer, and the change that records it: none where it was given before. */
async function answerTo(
  tx: Tx,
  { workspaceId, approvalId, digest }: Addressed,
  given: GivenAnswer,
): Promise<{ readonly approval: ApprovalRecord; readonly change: Change | undefined }> {
  const snapshot = await readSnapshot(tx, workspaceId, { kind: "approval", id: approvalId })
  const approval = snapshot?.approval
  if (snapshot === undefined || approval === undefined) throw notFound("approval", approvalId)
  const change = answerApproval(snapshot, approval, digest, given)
  return { approval: change?.approvals[0] ?? approval, change }
}

type Answered =
  | typeof DecideResponseSchema
  | typeof DecideAsDelegateResponseSchema
  | typeof BreakGlassResponseSchema

function answered<Schema extends Answered>(
  { approval, change }: Awaited<ReturnType<typeof answerTo>>,
  schema: Schema,
) {
  const reason = change === undefined ? "already_answered" : ""
  const response = create<Answered>(schema, { approval: toApproval(approval), reason })
  return { change, response: response as MessageShape<Schema> }
}

/** By which authority a delegate answers, or why it may not. */
async function delegated(
  { database, membership }: ApprovalHandlerDeps,
  request: DecideAsDelegateRequest,
  actorId: string,
  signal: AbortSignal,
): Promise<Pick<GivenAnswer, "role" | "delegation"> | RunwardenError> {
  const { workspaceId, approvalId, delegationId } = request
  const delegation = await database.tenant(
    workspaceId,
    (tx) => findDelegation(tx, workspaceId, delegationId),
    { signal, name: "findDelegation", isOneRead: true },
  )
  if (delegation === undefined) return notFound("delegation", delegationId)
  const { delegatorId } = delegation
  if (delegation.delegateId !== actorId || !delegation.isActive) {
    return notAllowed(approvalId, "delegation")
  }
  const subject = serviceSubject("orchestrator", workspaceId)
  const { member, role } = await membership.checkMembership(
    { workspaceId, actorId: delegatorId },
    actingAs(subject, { signal, timeoutMs: membershipTimeoutMs }),
  )
  if (member !== true) return notAllowed(approvalId, "delegation")
  return { role, delegation: { delegationId, delegatorId } }
}

function toAnswer(answer: Answer): "approve" | "reject" {
  switch (answer) {
    case Answer.APPROVE:
      return "approve"
    case Answer.REJECT:
      return "reject"
    default:
      throw new RunwardenError("INVALID_REQUEST", { field: "answer" })
  }
}
