/** Approval rules between the contract, the database and the domain. */
import { create, fromJson, type JsonValue, toJson } from "@bufbuild/protobuf"
import { durationFromMs, durationMs, timestampFromDate } from "@bufbuild/protobuf/wkt"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import {
  type ActiveApprovalRules,
  ActiveApprovalRulesSchema,
  type ApprovalRule as ApprovalRuleMessage,
  ApprovalRuleSchema,
  type ApprovalRuleVersion,
  ApprovalRuleVersionSchema,
} from "../../../gen/runwarden/orchestrator/v1/approval_rule_pb.ts"
import { canonicalJson, digestOf } from "../../../mesh/canonical.ts"
import { effectEnum, riskClassEnum, verdictEnum, wordOf } from "../state-enum.ts"
import { type ApprovalRule, type DefaultRule, defaultBook, defaultRuleId } from "./approval-rule.ts"
import type { ActiveRow, RuleVersionRow } from "./approval-rule-store.ts"

/** The rules of a message. Throws where one holds what this release does not know. */
export function toRule(message: ApprovalRuleMessage): ApprovalRule {
  const { scope, approverRole, quorum, expiry } = message
  return {
    ruleId: message.ruleId,
    scope: {
      tools: scope?.tools ?? [],
      riskClasses: (scope?.riskClasses ?? []).map((each) => known(wordOf(riskClassEnum, each))),
      effects: (scope?.effects ?? []).map((each) => known(wordOf(effectEnum, each))),
      verdicts: (scope?.verdicts ?? []).map((each) => known(wordOf(verdictEnum, each))),
    },
    approverRole: approverRole === Role.UNSPECIFIED ? Role.APPROVER : approverRole,
    isDistinctFromRequester: !message.requesterMayAnswer,
    quorum: Math.max(1, quorum),
    expiryMs: expiry === undefined ? undefined : durationMs(expiry),
    allowsDelegation: message.delegationAllowed,
    allowsBreakGlass: message.breakGlassAllowed,
  }
}

/** SHA-256 (hex) over the canonical JSON of rules. */
export function digestOfRules(messages: readonly ApprovalRuleMessage[]): string {
  return digestOf(messages.map((message) => toJson(ApprovalRuleSchema, message)))
}

/** Rules as they are stored: canonical JSON of their messages, which `readRules` reads again. */
export function storedRules(messages: readonly ApprovalRuleMessage[]): string {
  return canonicalJson(messages.map((message) => toJson(ApprovalRuleSchema, message)))
}

export function readRules(stored: string): ApprovalRuleMessage[] {
  return (JSON.parse(stored) as JsonValue[]).map((rule) => fromJson(ApprovalRuleSchema, rule))
}

/** A row as the message. */
export function toRuleVersion(
  workspaceId: string,
  row: RuleVersionRow,
  activeVersion: string,
  rules: readonly ApprovalRuleMessage[] = [],
): ApprovalRuleVersion {
  const ruleVersion = `rules@${row.version}`
  return create(ApprovalRuleVersionSchema, {
    ruleVersion,
    workspaceId,
    description: row.description,
    rules: [...rules],
    digest: row.digest,
    active: activeVersion === ruleVersion,
    creatorId: row.creatorId,
    createTime: timestampFromDate(row.createTime),
  })
}

/** The version that every workspace has: the default as its only rule. */
export function defaultVersion(
  workspaceId: string,
  rule: DefaultRule,
  isActive: boolean,
): ApprovalRuleVersion {
  const rules = [
    create(ApprovalRuleSchema, {
      ruleId: defaultRuleId,
      description: "What the deployment's configuration says.",
      approverRole: rule.approverRole as Role,
      requesterMayAnswer: !rule.isDistinctFromRequester,
      quorum: rule.quorum,
      expiry: durationFromMs(rule.expiryMs),
      delegationAllowed: rule.allowsDelegation,
      breakGlassAllowed: rule.allowsBreakGlass,
    }),
  ]
  return create(ApprovalRuleVersionSchema, {
    ruleVersion: defaultBook.ruleVersion,
    workspaceId,
    description: "The default of this deployment.",
    rules,
    digest: digestOfRules(rules),
    active: isActive,
  })
}

/** The active rules; without a row, the default that nobody activated. */
export function toActiveRules(
  version: ApprovalRuleVersion,
  active: ActiveRow | undefined,
): ActiveApprovalRules {
  version.active = true
  return create(ActiveApprovalRulesSchema, {
    version,
    etag: `"${active?.revision ?? 0}"`,
    ...(active === undefined
      ? {}
      : { activatorId: active.activatorId, updateTime: timestampFromDate(active.updateTime) }),
  })
}

/** The revision that an etag names; one that exists nowhere for an etag that was never given. */
export function revisionOf(etag: string): number {
  const [, revision] = /^"(\d{1,15})"$/.exec(etag) ?? []
  return revision === undefined ? -1 : Number(revision)
}

/** The number of a workspace's own version; undefined for the default. */
export function versionNumber(ruleVersion: string): number | undefined {
  const [, number] = /^rules@([1-9]\d{0,8})$/.exec(ruleVersion) ?? []
  return number === undefined ? undefined : Number(number)
}

function known<Word>(word: Word | undefined): Word {
  if (word === undefined) throw new Error("an approval rule holds what this release does not know")
  return word
}
