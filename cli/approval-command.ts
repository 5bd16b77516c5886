import { create } from "@bufbuild/protobuf"
import type { Command } from "commander"
import {
  type Approval,
  ApprovalState,
  ApprovalStateSchema,
} from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import {
  ApprovalService,
  GetApprovalResponseSchema,
  ListApprovalsResponseSchema,
} from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { describeApproval } from "../mesh/outcomes.ts"
import { shortened } from "../mesh/visible-text.ts"
import { answerCommand, breakGlassCommand } from "./approval-answer.ts"
import { approvalColumns, readApproval, tellApproval } from "./approval-text.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { eachOf } from "./each-of.ts"
import { enumsOption, enumText, enumValue } from "./enum-text.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf } from "./time-text.ts"

type ListOptions = PageOptions & {
  readonly run?: string
  readonly state?: readonly string[]
  readonly all?: boolean
  readonly wide?: boolean
}

export function approvalCommands(cli: Cli): Command {
  return group("approval", "answer what waits for a person", [
    command<ListOptions>(cli, "list", "list what waits for an answer, newest first", {
      examples: [
        "approval list",
        "approval list --wide   # with risk, arguments, requester and run",
        "approval list --all",
        "approval list --run <run-id> -o json",
      ],
      configure: (made) =>
        addPageOptions(made)
          .option("--wide", "with what would run and for whom; as JSON, with all of it")
          .option("--all", "answered and expired ones too")
          .option("--run <id>", "only approvals of this run")
          .addOption(enumsOption("--state <state>", "only in this state", ApprovalStateSchema)),
      action: listApprovals,
    }),
    command(cli, "show <approval-id>", "show exactly what would run", {
      examples: ["approval show <id>"],
      action: (context, _, [id = ""]) => showApproval(context, readId(id, "approval")),
    }),
    answerCommand(cli, "confirm", "let the call run, once and exactly as shown").alias("approve"),
    answerCommand(cli, "reject", "say no: the run ends"),
    breakGlassCommand(cli),
  ])
}

async function listApprovals(context: Context, options: ListOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const named = options.state?.map((one) => enumValue<ApprovalState>(ApprovalStateSchema, one))
  const states = options.all === true ? [] : (named ?? [ApprovalState.PENDING])
  const filters = { workspaceId, runId: options.run ?? "", states }
  const now = context.io.now()
  await printList(context, options, {
    async read(page) {
      const approvals = session.client(ApprovalService)
      const found = await approvals.listApprovals({ ...filters, ...page }, session.options)
      const items = options.wide === true ? await whole(context, found.approvals) : found.approvals
      return { items, nextPageToken: found.nextPageToken }
    },
    schema: ListApprovalsResponseSchema,
    toResponse: (approvals, nextPageToken) => ({ approvals, nextPageToken }),
    head:
      options.wide === true
        ? approvalColumns.head
        : ["APPROVAL", "TOOL", "RISK", "STATE", "TITLE", "ASKED", "EXPIRES"],
    row: (approval) =>
      options.wide === true
        ? approvalColumns.row(approval, now)
        : [
            approval.approvalId,
            approval.tool,
            enumText(RiskClassSchema, approval.riskClass),
            describeApproval(approval).label,
            shortened(approval.title, 40),
            ageOf(approval.createTime, now),
            approval.state === ApprovalState.PENDING ? ageOf(approval.expireTime, now) : "",
          ],
    empty: options.all === true ? "No approvals." : "Nothing waits for an answer.",
  })
}

/** With the arguments, which lists leave out. */
async function whole(context: Context, approvals: readonly Approval[]): Promise<Approval[]> {
  const read = await eachOf(approvals, ({ approvalId }) => readApproval(context, approvalId))
  return read.map((one) => {
    if (one.status === "rejected") throw one.reason
    return one.value
  })
}

async function showApproval(context: Context, approvalId: string): Promise<void> {
  const approval = await readApproval(context, approvalId)
  const response = create(GetApprovalResponseSchema, { approval })
  context.out.message(GetApprovalResponseSchema, response, () =>
    tellApproval(context.out, approval),
  )
}
