import type { Command } from "commander"
import { VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { Role, RoleSchema } from "../gen/runwarden/options/v1/access_pb.ts"
import type {
  ApprovalRule,
  ApprovalRuleVersion,
} from "../gen/runwarden/orchestrator/v1/approval_rule_pb.ts"
import {
  ActivateApprovalRuleVersionResponseSchema,
  ApprovalRuleService,
  CreateApprovalRuleVersionResponseSchema,
  GetActiveApprovalRulesResponseSchema,
  GetApprovalRuleVersionResponseSchema,
  ListApprovalRuleVersionsResponseSchema,
} from "../gen/runwarden/orchestrator/v1/approval_rule_service_pb.ts"
import { EffectSchema, RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { readRuleFile } from "./rule-file.ts"
import { readTextFile } from "./text-file.ts"
import { ageOf, spanText, timeText } from "./time-text.ts"

export function approvalRuleCommands(cli: Cli): Command {
  return group("approval-rule", "who may answer approvals", [
    command(cli, "show [version]", "show a version and its rules; the active one where absent", {
      examples: ["approval-rule show", "approval-rule show rules@1", "approval-rule show -o json"],
      action: (context, _, [version]) =>
        version === undefined ? showActive(context) : showVersion(context, version),
    }),
    command<PageOptions>(cli, "list", "list the versions", {
      examples: ["approval-rule list"],
      configure: addPageOptions,
      action: listVersions,
    }),
    command<{ readonly file: string }>(cli, "create", "store a version; it is not in force yet", {
      examples: ["approval-rule create --file examples/approval-rules.yaml"],
      more: "\nNeeds an admin. docs/approvals.md says how to write rules.",
      configure: (made) =>
        made.requiredOption(
          "-f, --file <path>",
          "the rules, YAML or JSON; - reads them from stdin",
        ),
      action: createVersion,
    }),
    command<{ readonly etag?: string }>(cli, "activate <version>", "ask by a version from now on", {
      examples: ["approval-rule activate rules@1", "approval-rule activate default@1"],
      more: `
Needs an admin. What was asked by another version and is not used yet does not count any more: it is
asked anew.`,
      configure: (made) => made.option("--etag <etag>", "only if the active rules are as read"),
      action: activateVersion,
    }),
  ])
}

async function showActive(context: Context): Promise<void> {
  const { rules, session, workspaceId } = await open(context)
  const response = await rules.getActiveApprovalRules({ workspaceId }, session.options)
  context.out.message(GetActiveApprovalRulesResponseSchema, response, () => {
    tell(context, response.activeRules?.version)
  })
}

async function showVersion(context: Context, ruleVersion: string): Promise<void> {
  const { rules, session, workspaceId } = await open(context)
  const request = { workspaceId, ruleVersion }
  const response = await rules.getApprovalRuleVersion(request, session.options)
  context.out.message(GetApprovalRuleVersionResponseSchema, response, () => {
    tell(context, response.version)
  })
}

async function listVersions(context: Context, options: PageOptions): Promise<void> {
  const { rules, session, workspaceId } = await open(context)
  await printList(context, options, {
    async read(page) {
      const found = await rules.listApprovalRuleVersions({ workspaceId, ...page }, session.options)
      return { items: found.versions, nextPageToken: found.nextPageToken }
    },
    schema: ListApprovalRuleVersionsResponseSchema,
    toResponse: (versions, nextPageToken) => ({ versions, nextPageToken }),
    head: ["VERSION", "ACTIVE", "CREATED", "DESCRIPTION"],
    row: (version) => [
      version.ruleVersion,
      version.active ? "yes" : "",
      ageOf(version.createTime, context.io.now()),
      shortened(version.description, 70),
    ],
    empty: "The workspace has no rules of its own; `approval-rule show` shows those in force.",
  })
}

async function createVersion(context: Context, { file }: { readonly file: string }) {
  const name = file === "-" ? "on stdin" : file
  const text = await readTextFile(context.io, "file", file)
  const { description, rules: written } = readRuleFile(text, name)
  const { rules, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), description, rules: [...written] }
  const response = await rules.createApprovalRuleVersion(request, session.options)
  context.out.message(CreateApprovalRuleVersionResponseSchema, response, () => {
    tell(context, response.version)
    const { ruleVersion = "" } = response.version ?? {}
    context.out.note(`Put it in force: npx runwarden approval-rule activate ${ruleVersion}`)
  })
}

async function activateVersion(
  context: Context,
  options: { readonly etag?: string },
  [ruleVersion = ""]: string[],
): Promise<void> {
  const { rules, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), ruleVersion, etag: options.etag ?? "" }
  const response = await rules.activateApprovalRuleVersion(request, session.options)
  context.out.message(ActivateApprovalRuleVersionResponseSchema, response, () => {
    tell(context, response.activeRules?.version)
  })
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, rules: session.client(ApprovalRuleService) }
}

function tell({ out, io }: Context, version: ApprovalRuleVersion | undefined): void {
  if (version === undefined) return
  if (out.isQuiet) {
    out.line(version.ruleVersion)
    return
  }
  out.details([
    ["version", version.ruleVersion],
    ["active", version.active ? "yes" : "no"],
    ["description", version.description],
    ["digest", version.digest],
    ["creator", version.creatorId],
    ["created", timeText(version.createTime, io.now())],
  ])
  out.line()
  const rows = version.rules.map((rule) => [
    rule.ruleId,
    scopeText(rule),
    whoText(rule),
    rule.expiry === undefined ? "as configured" : spanText(Number(rule.expiry.seconds) * 1_000),
    [rule.delegationAllowed ? "delegates" : "", rule.breakGlassAllowed ? "break-glass" : ""]
      .filter((text) => text !== "")
      .join(", "),
  ])
  out.table(["RULE", "FITS", "WHO SAYS YES", "WITHIN", "ALSO"], rows, "No rules.")
}

function scopeText({ scope }: ApprovalRule): string {
  const parts = [
    ...(scope?.tools ?? []),
    ...(scope?.riskClasses ?? []).map((each) => enumText(RiskClassSchema, each)),
    ...(scope?.effects ?? []).map((each) => enumText(EffectSchema, each)),
    ...(scope?.verdicts ?? []).map((each) => enumText(VerdictSchema, each)),
  ]
  return parts.length === 0 ? "everything" : shortened(parts.join(" "), 60)
}

function whoText(rule: ApprovalRule): string {
  const role = rule.approverRole === 0 ? Role.APPROVER : rule.approverRole
  const count = Math.max(1, rule.quorum)
  const who = `${count} × ${enumText(RoleSchema, role)}`
  return rule.requesterMayAnswer ? who : `${who}, not the requester`
}
