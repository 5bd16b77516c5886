import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  Answer,
  ApprovalService,
  DecideResponseSchema,
} from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { type Answered, decideApproval } from "./answers.ts"
import { toApproval } from "./approval-message.ts"
import { findApproval, listApprovals } from "./approval-store.ts"
import type { Change } from "./change.ts"
import type { ApprovalRecord } from "./snapshot.ts"
import { approvalStateEnum, wordOf } from "./state-enum.ts"
import { refuseNul } from "./text.ts"

export interface ApprovalHandlerDeps {
  readonly database: Database
  stored(change: Change): void
}

const sizes = { default: 50, max: 200 }

/** ApprovalService. */
export function approvalHandlers({ database, stored }: ApprovalHandlerDeps) {
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

    async decide(request, context) {
      refuseNul({ comment: request.comment })
      const answer = toAnswer(request.answer)
      let decided: Answered<ApprovalRecord> | undefined
      const response = await answerOnce(
        database,
        ApprovalService.method.decide,
        request,
        async (tx) => {
          decided = await decideApproval(tx, { ...request, answer }, callerOf(context))
          return create(DecideResponseSchema, { approval: toApproval(decided.resource) })
        },
        { signal: context.signal },
      )
      if (decided?.change !== undefined) stored(decided.change)
      return response
    },
  } satisfies ServiceImpl<typeof ApprovalService>
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
