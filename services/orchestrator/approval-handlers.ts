import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  Answer,
  ApprovalService,
  DecideResponseSchema,
} from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { Tx } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { type AnsweredChangeDeps, answerChanging } from "./answered-change.ts"
import { decideApproval } from "./answers.ts"
import { toApproval } from "./approval-message.ts"
import { findApproval, listApprovals } from "./approval-store.ts"
import { readSnapshot } from "./snapshot-store.ts"
import { approvalStateEnum, wordOf } from "./state-enum.ts"
import { refuseNul } from "./text.ts"

const sizes = { default: 50, max: 200 }

/** ApprovalService. */
export function approvalHandlers(deps: AnsweredChangeDeps) {
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
      const { workspaceId, approvalId, digest, comment } = request
      const given = { digest, comment, answer: toAnswer(request.answer) }
      const decide = async (tx: Tx) => {
        const snapshot = await readSnapshot(tx, workspaceId, { kind: "approval", id: approvalId })
        const approval = snapshot?.approval
        if (snapshot === undefined || approval === undefined) {
          throw notFound("approval", approvalId)
        }
        const change = decideApproval(snapshot, approval, given, callerOf(context))
        const decided = change?.approvals[0] ?? approval
        const response = create(DecideResponseSchema, { approval: toApproval(decided) })
        return { change, response }
      }
      const { decide: method } = ApprovalService.method
      return answerChanging(deps, method, request, decide, context.signal)
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
