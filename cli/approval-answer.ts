/** Saying yes or no: to one approval, or to several of which each is answered by itself. */
import { create, toJson } from "@bufbuild/protobuf"
import type { Command } from "commander"
import { type Approval, ApprovalState } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import {
  Answer,
  ApprovalService,
  type DecideResponse,
  DecideResponseSchema,
} from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { describeApproval } from "../mesh/outcomes.ts"
import { checkDigest, readApproval, tellApproval, tellApprovals } from "./approval-text.ts"
import { askYesNo } from "./ask.ts"
import { type Cli, type Context, command, readId } from "./command.ts"
import { eachOf } from "./each-of.ts"
import { exitCodes } from "./exit-code.ts"
import { CliError, type Failure, toFailure } from "./failure.ts"

interface AnswerOptions {
  readonly yes?: boolean
  readonly digest?: readonly string[]
  readonly comment?: string
  readonly delegation?: string
  readonly reason?: string
}

/** What is said, and by which RPC. */
type Kind = "confirm" | "reject" | "break-glass"

export function answerCommand(cli: Cli, kind: "confirm" | "reject", description: string): Command {
  return command<AnswerOptions>(cli, `${kind} <approval-id...>`, description, {
    examples: [
      `approval ${kind} <id>`,
      `approval ${kind} <id> <id> <id>   # each answered by itself`,
      `--as approver approval ${kind} <id>   # local mesh: as that demo member`,
      `approval ${kind} <id> --yes --comment "ticket 4711"`,
      `approval ${kind} <id> --delegation <delegation-id>`,
    ],
    more: `
It shows what would run and asks. The answer carries the digest of what was shown: if the call
changed meanwhile, it does not count. Without a terminal --yes is required; together with --digest
it answers only what was looked at before. Of several, whatever becomes of one leaves the others
alone; the exit code is 1 where one was not answered.`,
    configure: (made) =>
      addAnswerOptions(made)
        .option("--comment <text>", "why, for the record")
        .option("--delegation <id>", "answer for who delegated to you"),
    action: (context, options, given) => {
      const ids = [...new Set(given.map((id) => readId(id, "approval").toLowerCase()))]
      const [id = "", ...others] = ids
      if (others.length === 0) return answerOne(context, options, id, kind)
      return answerMany(context, options, ids, kind)
    },
  })
}

export function breakGlassCommand(cli: Cli): Command {
  return command<AnswerOptions>(cli, "break-glass <approval-id>", "say yes alone, as an admin", {
    examples: [`approval break-glass <id> --reason "site down, on-call is alone, INC-4711"`],
    more: `
Needs an admin, and a rule that allows it. It takes the place of the others whose yes is missing, not
of moderation and not of somebody else than the requester. The reason is kept with the answer, in the
history of the run and in telemetry.`,
    configure: (made) =>
      addAnswerOptions(made).requiredOption("--reason <text>", "why it cannot wait for the others"),
    action: (context, options, [id = ""]) =>
      answerOne(context, options, readId(id, "approval"), "break-glass"),
  })
}

function addAnswerOptions(made: Command): Command {
  return made
    .option("-y, --yes", "do not ask")
    .option(
      "--digest <sha256>",
      "answer only what has this digest; may be given again",
      (one: string, before: readonly string[] = []) => [...before, one.toLowerCase()],
    )
}

async function answerOne(
  context: Context,
  options: AnswerOptions,
  approvalId: string,
  kind: Kind,
): Promise<void> {
  const { out, io } = context
  requireYesOrTerminal(context, options)
  const approval = await readApproval(context, approvalId)
  if (!out.isJson && !out.isQuiet) tellApproval(out, approval)
  refuseOther(approval, options, kind)
  // Where nothing waits any more, the mesh says whether it was this answer that was given.
  if (options.yes !== true && approval.state === ApprovalState.PENDING) {
    const question = kind === "reject" ? "Reject it?" : "Let exactly this run, once?"
    if (!(await askYesNo(io, `\n${question} [y/N] `))) throw unanswered("it still waits")
  }
  const response = await send(context, approval, options, kind)
  out.message(DecideResponseSchema, response, () => {
    if (response.approval === undefined) return
    const { tone, text } = describeAnswered(response.approval)
    out.marked(tone, text)
    if (response.reason !== "") out.note("You had said so before; nothing changed.")
    out.note(`See how it goes: npx runwarden run watch ${response.approval.runId}`)
  })
}

/** What became of one of several. */
type Answered =
  | { readonly approvalId: string; readonly response: DecideResponse }
  | { readonly approvalId: string; readonly failure: Failure }

async function answerMany(
  context: Context,
  options: AnswerOptions,
  approvalIds: readonly string[],
  kind: "confirm" | "reject",
): Promise<void> {
  const { out, io } = context
  requireYesOrTerminal(context, options)
  const session = context.session()
  await session.workspaceId()
  const read = await eachOf(approvalIds, async (approvalId) => {
    const approval = await readApproval(context, approvalId)
    refuseOther(approval, options, kind)
    return approval
  })
  io.signal.throwIfAborted()
  const approvals = read.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []))
  if (!out.isJson && !out.isQuiet) {
    for (const approval of options.yes === true ? [] : approvals) {
      tellApproval(out, approval)
      out.line()
    }
    tellApprovals(out, approvals)
  }
  const waiting = approvals.filter(({ state }) => state === ApprovalState.PENDING).length
  if (options.yes !== true && waiting > 0) {
    const [these, once] = waiting === 1 ? ["this one", "once"] : [`these ${waiting}`, "each once"]
    const question = kind === "reject" ? `Reject ${these}?` : `Let exactly ${these} run, ${once}?`
    if (!(await askYesNo(io, `\n${question} [y/N] `))) throw unanswered("they still wait")
  }
  const sent = await eachOf(read, (one) => {
    if (one.status === "rejected") throw one.reason
    return send(context, one.value, options, kind)
  })
  tellAnswered(
    context,
    sent.map((one, index): Answered => {
      const approvalId = approvalIds[index] ?? ""
      if (one.status === "fulfilled") return { approvalId, response: one.value }
      return { approvalId, failure: toFailure(one.reason, session.target.url) }
    }),
  )
  io.signal.throwIfAborted()
}

function tellAnswered(context: Context, all: readonly Answered[]): void {
  const { out } = context
  const failures = all.filter((one) => "failure" in one)
  if (failures.length > 0) context.exitWith(exitCodes.error)
  if (out.isJson) {
    out.document({
      answers: all.map((one) =>
        "failure" in one
          ? { approvalId: one.approvalId, error: one.failure }
          : {
              approvalId: one.approvalId,
              ...(toJson(DecideResponseSchema, one.response) as object),
            },
      ),
    })
    return
  }
  for (const one of all) {
    if ("failure" in one) {
      const { message, reason } = one.failure
      const text = `${one.approvalId} not answered: ${message} (${reason})`
      if (out.isQuiet) out.failure({ ...one.failure, message: text })
      else out.marked("failure", text)
    } else if (out.isQuiet) {
      out.line(one.approvalId)
    } else if (one.response.approval !== undefined) {
      const { tone, text } = describeAnswered(one.response.approval)
      const before = one.response.reason === "" ? "" : " You had said so before."
      out.marked(tone, `${one.approvalId} ${text}${before}`)
    }
  }
  out.note(`${all.length - failures.length} of ${all.length} answered.`)
}

function describeAnswered(approval: Approval) {
  const { tone, label, explanation } = describeApproval(approval)
  const { state, approveCount, quorum } = approval
  const isOpen = state === ApprovalState.PENDING
  const progress = isOpen ? `${approveCount} of ${quorum} have said yes` : explanation
  return { tone, text: `${label}: ${progress}` }
}

function requireYesOrTerminal({ out, io }: Context, { yes }: AnswerOptions): void {
  const isTerminal = io.stdin.isTTY === true && io.stderr.isTTY === true && !out.isJson
  if (yes === true || isTerminal) return
  throw new CliError("There is no terminal to ask on, so nothing was answered.", {
    next: "Look at it with `approval show`, and give --yes (and --digest, to answer only that).",
  })
}

function unanswered(rest: string): CliError {
  return new CliError(`Nothing was answered; ${rest}.`, { reason: "not_answered" })
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
  if (options.digest !== undefined && !options.digest.includes(approval.digest)) {
    throw new CliError("What waits is not what --digest names, so nothing was answered.", {
      reason: "approval_content_changed",
      next: "Look at it again with `approval show`.",
      metadata: { digest: approval.digest },
    })
  }
  if (kind !== "reject") checkDigest(approval)
}
