import type { Command } from "commander"
import { VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import type { PolicyVersion } from "../gen/runwarden/moderation/v1/policy_pb.ts"
import {
  GetActivePolicyResponseSchema,
  GetPolicyVersionResponseSchema,
  ListPolicyVersionsResponseSchema,
  PolicyService,
} from "../gen/runwarden/moderation/v1/policy_service_pb.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf, timeText } from "./time-text.ts"

type ListOptions = PageOptions & { readonly name?: string }

export function policyCommands(cli: Cli): Command {
  return group("policy", "what moderation decides by", [
    command(cli, "show [version]", "show a version and its rules; the active one where absent", {
      examples: ["policy show", "policy show default@1", "policy show -o json"],
      action: (context, _, [version]) =>
        version === undefined ? showActive(context) : showVersion(context, version),
    }),
    command<ListOptions>(cli, "list", "list the versions", {
      examples: ["policy list"],
      configure: (made) => addPageOptions(made).option("--name <name>", "only of this policy"),
      action: listVersions,
    }),
  ])
}

async function showActive(context: Context): Promise<void> {
  const { policies, session, workspaceId } = await open(context)
  const response = await policies.getActivePolicy({ workspaceId }, session.options)
  context.out.message(GetActivePolicyResponseSchema, response, () => {
    tell(context, response.activePolicy?.policy)
  })
}

async function showVersion(context: Context, policyVersion: string): Promise<void> {
  const { policies, session, workspaceId } = await open(context)
  const request = { workspaceId, policyVersion }
  const response = await policies.getPolicyVersion(request, session.options)
  context.out.message(GetPolicyVersionResponseSchema, response, () => {
    tell(context, response.policyVersion)
  })
}

async function listVersions(context: Context, options: ListOptions): Promise<void> {
  const { policies, session, workspaceId } = await open(context)
  await printList(context, options, {
    async read(page) {
      const request = { workspaceId, name: options.name ?? "", ...page }
      const found = await policies.listPolicyVersions(request, session.options)
      return { items: found.policyVersions, nextPageToken: found.nextPageToken }
    },
    schema: ListPolicyVersionsResponseSchema,
    toResponse: (policyVersions, nextPageToken) => ({ policyVersions, nextPageToken }),
    head: ["VERSION", "ACTIVE", "CREATED", "DESCRIPTION"],
    row: (policy) => [
      policy.policyVersion,
      policy.active ? "yes" : "",
      ageOf(policy.createTime, context.io.now()),
      shortened(policy.description, 70),
    ],
    empty: "The workspace has no versions of its own; `policy show` shows the one in force.",
  })
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, policies: session.client(PolicyService) }
}

function tell({ out, io }: Context, policy: PolicyVersion | undefined): void {
  if (policy === undefined) return
  if (!out.isQuiet) {
    out.details([
      ["policy", policy.policyVersion],
      ["active", policy.active ? "yes" : "no"],
      ["description", policy.description],
      ["digest", policy.digest],
      ["creator", policy.creatorId],
      ["created", timeText(policy.createTime, io.now())],
    ])
    out.line()
  }
  out.table(
    ["RULE", "VERDICT", "CATEGORY", "BY", "DESCRIPTION"],
    policy.rules.map((rule) => [
      rule.ruleId,
      enumText(VerdictSchema, rule.verdict),
      rule.category,
      rule.matcher.case ?? "",
      shortened(rule.description, 80),
    ]),
    "No rules.",
  )
}
