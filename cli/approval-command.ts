import type { Command } from "commander"
import {
  type Approval,
  ApprovalState,
  ApprovalStateSchema,
} from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import {
  Answer,
  ApprovalService,
  DecideResponseSchema,
  GetApprovalResponseSchema,
  ListApprovalsResponseSchema,
} from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { describeApproval } from "../mesh/outcomes.ts"
import { shortened } from "../mesh/visible-text.ts"
import { checkDigest, tellApproval } from "./approval-text.ts"
import { askYesNo } from "./ask.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { enumsOption, enumValue } from "./enum-text.ts"
import { CliError } from "./failure.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf } from "./time-text.ts"

type ListOptions = PageOptions & {
  readonly run?: string
  readonly state?: readonly string[]
  readonly all?: boolean
}

interface AnswerOptions {
  readonly yes?: boolean
  readonly digest?: string
  readonly comment?: string
}

export function approvalCommands(cli: Cli): Command {
  return group("approval", "answer what waits for a person", [
    command<ListOptions>(cli, "list", "list what waits for an answer, newest first", {
      examples: ["approval list", "approval list --all", "approval list --run <run-id> -o json"],
      configure: (made) =>
        addPageOptions(made)
          .option("--all", "answered and expired ones too")
          .option("--run <id>", "only approvals of this run")
          .addOption(enumsOption("--state <state>", "only in this state", ApprovalStateSchema)),
      action: listApprovals,
    }),
    command(cli, "show <approval-id>", "show exactly what would run", {
      examples: ["approval show <id>"],
      action: (context, _, [id = ""]) => showApproval(context, readId(id, "approval")),
    }),
    answerCommand(cli, "confirm", "let the call run, once and exactly as shown"),
    answerCommand(cli, "reject", "say no: the run ends"),
  ])
}

function answerCommand(cli: Cli, name: "confirm" | "reject", description: string): Command {
  return command<AnswerOptions>(cli, `${name} <approval-id>`, description, {
    examples: [
      `approval ${name} <id>`,
      `--as approver approval ${name} <id>   # local mesh: as that demo member`,
      `approval ${name} <id> --yes --comment "ticket 4711"`,
    ],
    more: `
It shows what would run and asks. The answer carries the digest of what was shown: if the call
changed meanwhile, it does not count. Without a terminal --yes is required; together with --digest
it answers only what was looked at before.`,
    configure: (made) =>
      made
        .option("-y, --yes", "do not ask")
        .option("--digest <sha256>", "answer only if this is still the digest")
        .option("--comment <text>", "why, for the record"),
    action: (context, options, [id = ""]) => {
      const answer = name === "confirm" ? Answer.APPROVE : Answer.REJECT
      return decide(context, options, readId(id, "approval"), answer)
    },
  })
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
      return { items: found.approvals, nextPageToken: found.nextPageToken }
    },
    schema: ListApprovalsResponseSchema,
    toResponse: (approvals, nextPageToken) => ({ approvals, nextPageToken }),
    head: ["APPROVAL", "TOOL", "STATE", "TITLE", "ASKED", "EXPIRES"],
    row: (approval) => [
      approval.approvalId,
      approval.tool,
      describeApproval(approval).label,
      shortened(approval.title, 40),
      ageOf(approval.createTime, now),
      approval.state === ApprovalState.PENDING ? ageOf(approval.expireTime, now) : "",
    ],
    empty: options.all === true ? "No approvals." : "Nothing waits for an answer.",
  })
}

async function showApproval(context: Context, approvalId: string): Promise<void> {
  const response = await readApproval(context, approvalId)
  context.out.message(GetApprovalResponseSchema, response, () => {
    if (response.approval !== undefined) tellApproval(context.out, response.approval)
  })
}

async function decide(
  context: Context,
  options: AnswerOptions,
  approvalId: string,
  answer: Answer,
): Promise<void> {
  const { out, io } = context
  const isTerminal = io.stdin.isTTY === true && io.stderr.isTTY === true && !out.isJson
  if (options.yes !== true && !isTerminal) {
    throw new CliError("There is no terminal to ask on, so nothing was answered.", {
      next: "Look at it with `approval show`, and give --yes (and --digest, to answer only that).",
    })
  }
  const session = context.session()
  const { approval } = await readApproval(context, approvalId)
  if (approval === undefined) throw new CliError("The approval was not given back.")
  if (!out.isJson && !out.isQuiet) tellApproval(out, approval)
  refuseOther(approval, options, answer)
  // Where nothing waits any more, the mesh says whether it was this answer that was given.
  if (options.yes !== true && approval.state === ApprovalState.PENDING) {
    const question = answer === Answer.APPROVE ? "Let exactly this run, once?" : "Reject it?"
    if (!(await askYesNo(io, `\n${question} [y/N] `))) {
      throw new CliError("Nothing was answered; it still waits.", { reason: "not_answered" })
    }
  }
  const response = await session.client(ApprovalService).decide(
    {
      workspaceId: approval.workspaceId,
      requestId: newId(),
      approvalId,
      digest: approval.digest,
      answer,
      comment: options.comment ?? "",
    },
    session.options,
  )
  out.message(DecideResponseSchema, response, () => {
    if (response.approval === undefined) return
    const { tone, label, explanation } = describeApproval(response.approval)
    out.marked(tone, `${label}: ${explanation}`)
    out.note(`See how it goes: npx runwarden run watch ${approval.runId}`)
  })
}

/** What is confirmed must be what is shown: pending, as looked at, and covered by the digest. */
function refuseOther(approval: Approval, options: AnswerOptions, answer: Answer): void {
  if (options.digest !== undefined && options.digest.toLowerCase() !== approval.digest) {
    throw new CliError("What waits is not what --digest names, so nothing was answered.", {
      reason: "approval_content_changed",
      next: "Look at it again with `approval show`.",
      metadata: { digest: approval.digest },
    })
  }
  if (answer === Answer.APPROVE) checkDigest(approval)
}

async function readApproval(context: Context, approvalId: string) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return session.client(ApprovalService).getApproval({ workspaceId, approvalId }, session.options)
}
