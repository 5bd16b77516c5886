/** Approval rules as people write them: YAML or JSON, checked before anything is sent, by line. */
import { create, type DescEnum, type MessageInitShape } from "@bufbuild/protobuf"
import { isMap, isScalar, isSeq, type Node } from "yaml"
import { VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { RoleSchema } from "../gen/runwarden/options/v1/access_pb.ts"
import {
  type ApprovalRule,
  ApprovalRuleSchema,
  type ApprovalScopeSchema,
} from "../gen/runwarden/orchestrator/v1/approval_rule_pb.ts"
import { EffectSchema, RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { type PlanReader, readYaml } from "./plan-reader.ts"
import { readSeconds } from "./time-text.ts"

export interface RuleFile {
  readonly description: string
  readonly rules: readonly ApprovalRule[]
}

const scopeFields = ["tools", "risk_classes", "effects", "verdicts"] as const
const flagFields = ["requester_may_answer", "delegation_allowed", "break_glass_allowed"] as const
const ruleFields = [
  ...["id", "description", ...scopeFields, "approver_role", "quorum", "expiry"],
  ...flagFields,
]

/** Reads a file of rules. Throws one error that names every fault with its line. */
export function readRuleFile(text: string, fileName: string): RuleFile {
  return readYaml(text, readRoot, {
    message: `The rules ${fileName} cannot be used; nothing was sent.`,
    reason: "invalid_rule_file",
    next: "Correct the file; docs/approvals.md says how to write rules.",
  })
}

function readRoot(root: Node | null, reader: PlanReader): RuleFile | undefined {
  if (!isMap(root)) {
    reader.fault(root, "the file is a mapping with rules")
    return undefined
  }
  const fields = reader.fields(root, ["description", "rules"], "the file")
  const rules = fields.get("rules")
  if (!isSeq(rules)) reader.fault(rules ?? root, "rules is a list, the first that fits counts")
  const nodes = isSeq(rules) ? (rules.items as Node[]) : []
  return {
    description: reader.text(fields.get("description")) ?? "",
    rules: nodes.map((node) => create(ApprovalRuleSchema, readRule(node, reader))),
  }
}

function readRule(node: Node, reader: PlanReader): MessageInitShape<typeof ApprovalRuleSchema> {
  if (!isMap(node)) {
    reader.fault(node, "a rule is a mapping with an id")
    return {}
  }
  const fields = reader.fields(node, ruleFields, "a rule")
  const ruleId = reader.text(fields.get("id")) ?? ""
  if (ruleId === "") reader.fault(fields.get("id") ?? node, "a rule needs an id")
  const role = fields.get("approver_role")
  const expiry = fields.get("expiry")
  const length = reader.text(expiry)
  const seconds =
    length === undefined ? undefined : reader.attempt(expiry, () => readSeconds(length, "expiry"))
  const flag = (name: (typeof flagFields)[number]) => reader.flag(fields.get(name))
  return {
    ruleId,
    description: reader.text(fields.get("description")) ?? "",
    scope: readScope(fields, reader),
    approverRole: role === undefined ? 0 : reader.word(role, RoleSchema),
    quorum: readCount(fields.get("quorum"), reader),
    requesterMayAnswer: flag("requester_may_answer"),
    delegationAllowed: flag("delegation_allowed"),
    breakGlassAllowed: flag("break_glass_allowed"),
    ...(seconds === undefined ? {} : { expiry: { seconds: BigInt(seconds) } }),
  }
}

function readScope(
  fields: ReadonlyMap<string, Node>,
  reader: PlanReader,
): MessageInitShape<typeof ApprovalScopeSchema> {
  const words = <Value extends number>(name: string, desc: DescEnum) =>
    reader.words<Value>(fields.get(name), desc)
  return {
    tools: reader.texts(fields.get("tools")),
    riskClasses: words("risk_classes", RiskClassSchema),
    effects: words("effects", EffectSchema),
    verdicts: words("verdicts", VerdictSchema),
  }
}

function readCount(node: Node | undefined, reader: PlanReader): number {
  if (node === undefined) return 0
  if (isScalar(node) && Number.isInteger(node.value) && Number(node.value) > 0) {
    return Number(node.value)
  }
  reader.fault(node, "quorum is a whole number, from 1 on")
  return 0
}
