import type { Command } from "commander"
import {
  type Decision,
  SubjectSchema,
  type Verdict,
  VerdictSchema,
} from "../gen/runwarden/moderation/v1/decision_pb.ts"
import {
  DecisionService,
  GetDecisionResponseSchema,
  ListDecisionsResponseSchema,
} from "../gen/runwarden/moderation/v1/decision_service_pb.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { tellGrounds } from "./decision-text.ts"
import { enumOption, enumText, enumValue } from "./enum-text.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf, timeText } from "./time-text.ts"

type ListOptions = PageOptions & { readonly verdict?: string; readonly run?: string }

export function decisionCommands(cli: Cli): Command {
  return group("decision", "what moderation decided, and why", [
    command<ListOptions>(cli, "list", "list decisions, newest first", {
      examples: [
        "decision list",
        "decision list --verdict blocked",
        "decision list --run <run-id>",
      ],
      configure: (made) =>
        addPageOptions(made)
          .addOption(enumOption("--verdict <verdict>", "only with this verdict", VerdictSchema))
          .option("--run <id>", "only of this run"),
      action: listDecisions,
    }),
    command(cli, "get <decision-id>", "show a decision with its grounds", {
      examples: ["decision get <id>"],
      action: getDecision,
    }),
  ])
}

async function listDecisions(context: Context, options: ListOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const verdict = enumValue<Verdict>(VerdictSchema, options.verdict ?? "")
  const filters = { workspaceId, verdict, runId: options.run ?? "" }
  await printList(context, options, {
    async read(page) {
      const decisions = session.client(DecisionService)
      const found = await decisions.listDecisions({ ...filters, ...page }, session.options)
      return { items: found.decisions, nextPageToken: found.nextPageToken }
    },
    schema: ListDecisionsResponseSchema,
    toResponse: (decisions, nextPageToken) => ({ decisions, nextPageToken }),
    head: ["DECISION", "VERDICT", "SUBJECT", "TOOL", "RULES", "POLICY", "DECIDED"],
    row: (decision) => [
      decision.decisionId,
      enumText(VerdictSchema, decision.verdict),
      enumText(SubjectSchema, decision.subject),
      decision.tool,
      rulesOf(decision),
      decision.policyVersion,
      ageOf(decision.createTime, context.io.now()),
    ],
    empty: "No decisions.",
  })
}

async function getDecision(context: Context, _: object, [id = ""]: string[]): Promise<void> {
  const { out, io } = context
  const decisionId = readId(id, "decision")
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(DecisionService)
    .getDecision({ workspaceId, decisionId }, session.options)
  out.message(GetDecisionResponseSchema, response, () => {
    const { decision } = response
    if (decision === undefined) return
    const { stepIndex } = decision
    out.details([
      ["decision", decision.decisionId],
      ["verdict", enumText(VerdictSchema, decision.verdict)],
      ["subject", enumText(SubjectSchema, decision.subject)],
      ["policy", decision.policyVersion],
      ["replaced by", decision.replacedBy],
      ["run", decision.runId],
      ["step", stepIndex === undefined ? "" : String(stepIndex)],
      ["tool", decision.tool],
      ["content", decision.contentDigest],
      ["no verdict", decision.failure],
      ["took", `${(decision.latencyMicros / 1000).toFixed(1)} ms`],
      ["decided", timeText(decision.createTime, io.now())],
    ])
    tellGrounds(out, decision)
  })
}

function rulesOf({ matchedRules, failure }: Decision): string {
  return failure === "" ? matchedRules.map(({ ruleId }) => ruleId).join(", ") : failure
}
