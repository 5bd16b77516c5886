import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import type {
  ApprovalRule,
  ApprovalRuleVersion,
} from "../../../gen/runwarden/orchestrator/v1/approval_rule_pb.ts"
import {
  ActivateApprovalRuleVersionResponseSchema,
  ApprovalRuleService,
  CreateApprovalRuleVersionResponseSchema,
} from "../../../gen/runwarden/orchestrator/v1/approval_rule_service_pb.ts"
import type { Database, Tx } from "../../../mesh/database.ts"
import { notFound, RunwardenError } from "../../../mesh/errors.ts"
import { callerOf } from "../../../mesh/identity.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import { answerOnce } from "../../../mesh/request-id.ts"
import { refuseNul } from "../text.ts"
import { type DefaultRule, defaultBook } from "./approval-rule.ts"
import {
  defaultVersion,
  digestOfRules,
  readRules,
  revisionOf,
  storedRules,
  toActiveRules,
  toRuleVersion,
  versionNumber,
} from "./approval-rule-message.ts"
import {
  activateRules,
  findActiveRules,
  findRuleVersion,
  insertRuleVersion,
  listRuleVersions,
} from "./approval-rule-store.ts"

const sizes = { default: 50, max: 200 }

/** ApprovalRuleService. */
export function approvalRuleHandlers(deps: {
  readonly database: Database
  readonly defaultRule: DefaultRule
}) {
  const { database, defaultRule } = deps
  return {
    async getActiveApprovalRules({ workspaceId }, { signal }) {
      return database.tenant(
        workspaceId,
        async (tx) => {
          const active = await findActiveRules(tx, workspaceId)
          const ruleVersion = active?.ruleVersion ?? defaultBook.ruleVersion
          const version = await readVersion(tx, defaultRule, workspaceId, ruleVersion)
          return { activeRules: toActiveRules(version, active) }
        },
        { signal, name: "getActiveApprovalRules" },
      )
    },

    async getApprovalRuleVersion({ workspaceId, ruleVersion }, { signal }) {
      return database.tenant(
        workspaceId,
        async (tx) => {
          const version = await readVersion(tx, defaultRule, workspaceId, ruleVersion)
          const active = await findActiveRules(tx, workspaceId)
          version.active = (active?.ruleVersion ?? defaultBook.ruleVersion) === ruleVersion
          return { version }
        },
        { signal, name: "getApprovalRuleVersion" },
      )
    },

    async listApprovalRuleVersions(request, { signal }) {
      const { workspaceId } = request
      const filters = { list: "approval_rule_versions", workspaceId }
      const { limit, after } = readPage(request, filters, sizes)
      const before = after === undefined ? undefined : Number(after[0])
      const { rows, active } = await database.tenant(
        workspaceId,
        async (tx) => ({
          rows: await listRuleVersions(tx, workspaceId, { before, limit: limit + 1 }),
          active: await findActiveRules(tx, workspaceId),
        }),
        { signal, name: "listApprovalRuleVersions" },
      )
      const page = rows.slice(0, limit)
      const last = String(page.at(-1)?.version)
      return {
        versions: page.map((row) => toRuleVersion(workspaceId, row, active?.ruleVersion ?? "")),
        nextPageToken: rows.length > limit ? nextPage(filters, [last]) : "",
      }
    },

    async createApprovalRuleVersion(request, context) {
      const { workspaceId, description, rules } = request
      refuseNul({ description, ...textsOf(rules) })
      refuseTwins(rules)
      const creatorId = callerOf(context).actorId
      const version = {
        ...{ description, creatorId },
        rules: storedRules(rules),
        digest: digestOfRules(rules),
      }
      const work = async (tx: Tx) => {
        const row = await insertRuleVersion(tx, workspaceId, version)
        return create(CreateApprovalRuleVersionResponseSchema, {
          version: toRuleVersion(workspaceId, row, "", rules),
        })
      }
      const { createApprovalRuleVersion } = ApprovalRuleService.method
      const { signal } = context
      return answerOnce(database, createApprovalRuleVersion, request, work, { signal })
    },

    async activateApprovalRuleVersion(request, context) {
      const { workspaceId, ruleVersion, etag } = request
      const change = {
        version: versionNumber(ruleVersion) ?? null,
        activatorId: callerOf(context).actorId,
        revision: etag === "" ? undefined : revisionOf(etag),
      }
      const work = async (tx: Tx) => {
        const version = await readVersion(tx, defaultRule, workspaceId, ruleVersion)
        const active = await activateRules(tx, workspaceId, change)
        if (active === undefined) {
          throw new RunwardenError("ETAG_MISMATCH", {
            resource: "active approval rules",
            id: workspaceId,
          })
        }
        return create(ActivateApprovalRuleVersionResponseSchema, {
          activeRules: toActiveRules(version, active),
        })
      }
      const { activateApprovalRuleVersion } = ApprovalRuleService.method
      const { signal } = context
      return answerOnce(database, activateApprovalRuleVersion, request, work, { signal })
    },
  } satisfies ServiceImpl<typeof ApprovalRuleService>
}

/** A version with its rules, the default or the workspace's own. Throws NOT_FOUND. */
async function readVersion(
  tx: Tx,
  defaultRule: DefaultRule,
  workspaceId: string,
  ruleVersion: string,
): Promise<ApprovalRuleVersion> {
  const number = versionNumber(ruleVersion)
  if (number === undefined) return defaultVersion(workspaceId, defaultRule, false)
  const row = await findRuleVersion(tx, workspaceId, number)
  if (row === undefined) throw notFound("approval rule version", ruleVersion)
  return toRuleVersion(workspaceId, row, "", readRules(row.rules))
}

/** Throws where two rules have one id: an approval could not say which of them it was asked under. */
function refuseTwins(rules: readonly ApprovalRule[]): void {
  const seen = new Set<string>()
  for (const [index, { ruleId }] of rules.entries()) {
    const field = `rules[${index}].rule_id`
    if (seen.has(ruleId)) {
      const cause = `another rule is called ${ruleId}`
      const violations = [{ field, description: cause }]
      throw new RunwardenError("INVALID_POLICY", { field, cause }, { violations })
    }
    seen.add(ruleId)
  }
}

function textsOf(rules: readonly ApprovalRule[]): Record<string, string> {
  return Object.fromEntries(
    rules.map(({ description }, index) => [`rules[${index}].description`, description]),
  )
}
