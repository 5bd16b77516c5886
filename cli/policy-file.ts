/** Policies as people write them: YAML or JSON, checked before anything is sent, by line. */
import { create, type DescEnum, type MessageInitShape } from "@bufbuild/protobuf"
import { isMap, isScalar, isSeq, type Node } from "yaml"
import { SubjectSchema, VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { MatchCheck, type Rule, RuleSchema } from "../gen/runwarden/moderation/v1/policy_pb.ts"
import { EffectSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { type PlanReader, readYaml } from "./plan-reader.ts"

export interface PolicyFile {
  readonly name: string
  readonly description: string
  readonly rules: readonly Rule[]
}

type Matcher = NonNullable<MessageInitShape<typeof RuleSchema>["matcher"]>
type Fields = ReadonlyMap<string, Node>

const matchers = ["expression", "patterns", "words", "classifier"] as const
const ruleFields = [
  ...["id", "verdict", "category", "description"],
  ...["subjects", "tools", "except_tools", "effects", "luhn"],
  ...matchers,
]

/** Reads a file with a policy. Throws one error that names every fault with its line. */
export function readPolicyFile(text: string, fileName: string): PolicyFile {
  return readYaml(text, readRoot, {
    message: `The policy ${fileName} cannot be used; nothing was sent.`,
    reason: "invalid_policy_file",
    next: "Correct the file; docs/policies.md says how to write policies.",
  })
}

function readRoot(root: Node | null, reader: PlanReader): PolicyFile | undefined {
  if (!isMap(root)) {
    reader.fault(root, "the file is a mapping with a name and rules")
    return undefined
  }
  const fields = reader.fields(root, ["name", "description", "rules"], "the file")
  const rules = fields.get("rules")
  if (!isSeq(rules)) reader.fault(rules ?? root, "rules is a list")
  return {
    name: needed(fields, "name", root, reader),
    description: reader.text(fields.get("description")) ?? "",
    rules: reader.list(rules).map((node) => create(RuleSchema, readRule(node, reader))),
  }
}

function readRule(node: Node, reader: PlanReader): MessageInitShape<typeof RuleSchema> {
  if (!isMap(node)) {
    reader.fault(node, "a rule is a mapping with an id")
    return {}
  }
  const fields = reader.fields(node, ruleFields, "a rule")
  const texts = (name: string) => reader.texts(fields.get(name))
  const words = <Value extends number>(name: string, desc: DescEnum) =>
    reader.words<Value>(fields.get(name), desc)
  const verdict = fields.get("verdict")
  if (verdict === undefined) reader.fault(node, "a rule needs a verdict, flagged or blocked")
  return {
    ruleId: needed(fields, "id", node, reader),
    category: needed(fields, "category", node, reader),
    description: needed(fields, "description", node, reader),
    ...(verdict === undefined ? {} : { verdict: reader.word(verdict, VerdictSchema) }),
    scope: {
      subjects: words("subjects", SubjectSchema),
      tools: texts("tools"),
      exceptTools: texts("except_tools"),
      effects: words("effects", EffectSchema),
    },
    matcher: readMatcher(fields, node, reader),
  }
}

function readMatcher(fields: Fields, rule: Node, reader: PlanReader): Matcher {
  const [kind, ...others] = matchers.filter((name) => fields.has(name))
  if (kind === undefined || others.length > 0) {
    reader.fault(rule, `a rule has one of ${matchers.join(", ")}`)
    return { case: undefined }
  }
  const node = fields.get(kind)
  const texts = () => reader.texts(node)
  const check = fields.get("luhn")
  if (check !== undefined && kind !== "patterns") reader.fault(check, "luhn goes with patterns")
  switch (kind) {
    case "expression":
      return { case: kind, value: reader.text(node) ?? "" }
    case "words":
      return { case: kind, value: { words: texts() } }
    case "patterns": {
      const isLuhn = check !== undefined && reader.flag(check)
      const value = { patterns: texts(), check: isLuhn ? MatchCheck.LUHN : MatchCheck.UNSPECIFIED }
      return { case: kind, value }
    }
    case "classifier":
      return { case: kind, value: readClassifier(node, rule, reader) }
  }
}

function readClassifier(node: Node | undefined, rule: Node, reader: PlanReader) {
  if (!isMap(node)) {
    reader.fault(node ?? rule, "classifier is a mapping with a name, a label and a threshold")
    return {}
  }
  const fields = reader.fields(node, ["name", "label", "threshold"], "a classifier")
  const threshold = fields.get("threshold")
  const value = isScalar(threshold) ? threshold.value : undefined
  if (typeof value !== "number") {
    reader.fault(threshold ?? node, "threshold is a number above 0 and up to 1")
  }
  return {
    classifier: needed(fields, "name", node, reader),
    label: needed(fields, "label", node, reader),
    ...(typeof value === "number" ? { threshold: value } : {}),
  }
}

function needed(fields: Fields, name: string, around: Node, reader: PlanReader): string {
  const text = reader.text(fields.get(name)) ?? ""
  if (text === "") reader.fault(fields.get(name) ?? around, `${name} is needed`)
  return text
}
