import { type Decision, VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { enumText } from "./enum-text.ts"
import type { Output } from "./output.ts"

/** The rules that matched and the scores of their categories; nothing where none did. */
export function tellGrounds(out: Output, { matchedRules, categories }: Decision): void {
  if (matchedRules.length === 0) return
  out.line()
  out.table(
    ["RULE", "VERDICT", "CATEGORY", "SCORE", "WHERE", "WHY"],
    matchedRules.map((rule) => [
      rule.ruleId,
      enumText(VerdictSchema, rule.verdict),
      rule.category,
      (categories[rule.category] ?? 1).toFixed(2),
      rule.pointer,
      rule.description,
    ]),
    "",
  )
}
