import { create } from "@bufbuild/protobuf"
import type { Command } from "commander"
import {
  type Approval,
  ApprovalState,
  ApprovalStateSchema,
} from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import {
  Answer,
  ApprovalService,
  type DecideResponse,
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
  readonly delegation?: string
  readonly reason?: string
}

/** What is said, and by which RPC. */
type Kind = "confirm" | "reject" | "break-glass"

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
    answerCommand(cli, "confirm", "let the call run, once and exactly as shown").alias("approve"),
    answerCommand(cli, "reject", "say no: the run ends"),
    breakGlassCommand(cli),
  ])
}

function answerCommand(cli: Cli, kind: "confirm" | "reject", description: string): Command {
  return command<AnswerOptions>(cli, `${kind} <approval-id>`, description, {
    examples: [
      `approval ${kind} <id>`,
      `--as approver approval ${kind} <id>   # local mesh: as that demo member`,
      `approval ${kind} <id> --yes --comment "ticket 4711"`,
      `approval ${kind} <id> --delegation <delegation-id>`,
    ],
    more: `
It shows what would run and asks. The answer carries the digest of what was shown: if the call
changed meanwhile, it does not count. Without a terminal --yes is required; together with --digest
it answers only what was looked at before.`,
    configure: (made) =>
      addAnswerOptions(made)
        .option("--comment <text>", "why, for the record")
        .option("--delegation <id>", "answer for who delegated to you"),
    action: (context, options, [id = ""]) => decide(context, options, readId(id, "approval"), kind),
  })
}

function breakGlassCommand(cli: Cli): Command {
  return command<AnswerOptions>(cli, "break-glass <approval-id>", "say yes alone, as an admin", {
    examples: [`approval break-glass <id> --reason "site down, on-call is alone, INC-4711"`],
    more: `
Needs an admin, and a rule that allows it. It takes the place of the others whose yes is missing, not
of moderation and not of somebody else than the requester. The reason is kept with the answer, in the
history of the run and in telemetry.`,
    configure: (made) =>
      addAnswerOptions(made).requiredOption("--reason <text>", "why it cannot wait for the others"),
    action: (context, options, [id = ""]) =>
      decide(context, options, readId(id, "approval"), "break-glass"),
  })
}

function addAnswerOptions(made: Command): Command {
  return made
    .option("-y, --yes", "do not ask")
    .option("--digest <sha256>", "answer only if this is still the digest")
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
  kind: Kind,
): Promise<void> {
  const { out, io } = context
  const isTerminal = io.stdin.isTTY === true && io.stderr.isTTY === true && !out.isJson
  if (options.yes !== true && !isTerminal) {
    throw new CliError("There is no terminal to ask on, so nothing was answered.", {
      next: "Look at it with `approval show`, and give --yes (and --digest, to answer only that).",
    })
  }
  const { approval } = await readApproval(context, approvalId)
  if (approval === undefined) throw new CliError("The approval was not given back.")
  if (!out.isJson && !out.isQuiet) tellApproval(out, approval)
  refuseOther(approval, options, kind)
  // Where nothing waits any more, the mesh says whether it was this answer that was given.
  if (options.yes !== true && approval.state === ApprovalState.PENDING) {
    const question = kind === "reject" ? "Reject it?" : "Let exactly this run, once?"
    if (!(await askYesNo(io, `\n${question} [y/N] `))) {
      throw new CliError("Nothing was answered; it still waits.", { reason: "not_answered" })
    }
  }
  const response = await send(context, approval, options, kind)
  out.message(DecideResponseSchema, response, () => {
    if (response.approval === undefined) return
    const { state, approveCount, quorum, runId } = response.approval
    const { tone, label, explanation } = describeApproval(response.approval)
    const isOpen = state === ApprovalState.PENDING
    const progress = isOpen ? `: ${approveCount} of ${quorum} have said yes` : `: ${explanation}`
    out.marked(tone, `${label}${progress}`)
    if (response.reason !== "") out.note("You had said so before; nothing changed.")
    out.note(`See how it goes: npx runwarden run watch ${runId}`)
  })
}

/** The answer by its RPC; all of them respond the same. */
async function send(
  context: Context,
  approval: Approval,
  options: AnswerOptions,
  kind: Kind,
): Promise<DecideResponse> {
  const session = context.session()
  const approvals = session.client(ApprovalService)
  const { workspaceId, approvalId, digest } = approval
  const about = { workspaceId, requestId: newId(), approvalId, digest }
  if (kind === "break-glass") {
    const request = { ...about, reason: options.reason ?? "" }
    return asDecided(await approvals.breakGlass(request, session.options))
  }
  const answer = kind === "confirm" ? Answer.APPROVE : Answer.REJECT
  const request = { ...about, answer, comment: options.comment ?? "" }
  if (options.delegation === undefined) return approvals.decide(request, session.options)
  const delegationId = readId(options.delegation, "delegation")
  return asDecided(await approvals.decideAsDelegate({ ...request, delegationId }, session.options))
}

function asDecided({ approval, reason }: Pick<DecideResponse, "approval" | "reason">) {
  return create(DecideResponseSchema, { reason, ...(approval === undefined ? {} : { approval }) })
}

/** What is confirmed must be what is shown: pending, as looked at, and covered by the digest. */
function refuseOther(approval: Approval, options: AnswerOptions, kind: Kind): void {
  if (options.digest !== undefined && options.digest.toLowerCase() !== approval.digest) {
    throw new CliError("What waits is not what --digest names, so nothing was answered.", {
      reason: "approval_content_changed",
      next: "Look at it again with `approval show`.",
      metadata: { digest: approval.digest },
    })
  }
  if (kind !== "reject") checkDigest(approval)
}

async function readApproval(context: Context, approvalId: string) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return session.client(ApprovalService).getApproval({ workspaceId, approvalId }, session.options)
}
