import { ContentTooLarge, textsOf } from "./content-text.ts"
import { formsOf } from "./normalised-text.ts"
import { type CompiledRule, type JudgeInput, type Policy, toExpressionInput } from "./policy.ts"
import type { Rule } from "./rule.ts"
import { finish, type Steps } from "./slices.ts"

/** One rule that spoke, with the place of the text that matched. */
export interface Match {
  readonly rule: Rule
  readonly pointer: string
}

/**
 * What came of judging. There is no fourth verdict and no default: `allowed` exists only where every
 * rule that applies was evaluated to its end and none matched. `failed` counts as blocked.
 */
export type Judgement =
  | { readonly kind: "allowed" }
  | { readonly kind: "flagged"; readonly matches: readonly Match[] }
  | { readonly kind: "blocked"; readonly matches: readonly Match[] }
  | { readonly kind: "failed"; readonly failure: string; readonly matches: readonly Match[] }

/**
 * Judges one thing by a policy: every rule that applies, over the whole content. Yields often
 * enough that no step holds the event loop for long. Never throws: what goes wrong is `failed`.
 */
export function* judge(policy: Policy, input: JudgeInput): Steps<Judgement> {
  const matched = new Map<CompiledRule, string>()
  try {
    const applying = policy.rules.map((rule) => rule.applies(input))
    const failure = yield* judgeExpressions(policy, input, applying, matched)
    if (failure !== undefined) return { kind: "failed", failure, matches: toMatches(matched) }
    yield* judgeTexts(policy, input, applying, matched)
  } catch (error) {
    return { kind: "failed", failure: failureOf(error), matches: toMatches(matched) }
  }
  const matches = toMatches(matched)
  if (matches.some((match) => match.rule.verdict === "blocked")) return { kind: "blocked", matches }
  if (matches.length > 0) return { kind: "flagged", matches }
  return { kind: "allowed" }
}

/** Judges without giving way; for tests. */
export function judgeNow(policy: Policy, input: JudgeInput): Judgement {
  return finish(judge(policy, input))
}

function* judgeExpressions(
  policy: Policy,
  input: JudgeInput,
  applying: readonly boolean[],
  matched: Map<CompiledRule, string>,
): Steps<string | undefined> {
  let failure: string | undefined
  const expressionInput = toExpressionInput(input)
  for (const [index, rule] of policy.rules.entries()) {
    if (rule.expression === undefined || applying[index] !== true) continue
    const result = rule.expression(expressionInput)
    if (result.kind === "failure") failure ??= `rule ${rule.rule.ruleId}: ${result.cause}`
    else if (result.value) matched.set(rule, "")
    yield
  }
  return failure
}

function* judgeTexts(
  policy: Policy,
  input: JudgeInput,
  applying: readonly boolean[],
  matched: Map<CompiledRule, string>,
): Steps<undefined> {
  const open = (index: number | undefined): CompiledRule | undefined => {
    const rule = index === undefined || applying[index] !== true ? undefined : policy.rules[index]
    return rule === undefined || matched.has(rule) ? undefined : rule
  }
  for (const { pointer, text } of textsOf(input.content)) {
    const forms = yield* formsOf(text)
    for (const [place, form] of forms.entries()) {
      const wanted = (pattern: number) => open(policy.ruleOfPattern[pattern]) !== undefined
      const patterns = yield* policy.patterns.find(form, wanted)
      const isNormalised = place > 0 || forms.length === 1
      const words = isNormalised ? yield* policy.words.find(form) : []
      const found = [
        ...[...patterns].map((pattern) => policy.ruleOfPattern[pattern]),
        ...[...words].map((entry) => policy.ruleOfWords[entry]),
      ]
      for (const index of found) {
        const rule = open(index)
        if (rule !== undefined) matched.set(rule, pointer)
      }
      yield
    }
  }
}

function toMatches(matched: ReadonlyMap<CompiledRule, string>): readonly Match[] {
  return [...matched]
    .map(([{ rule }, pointer]) => ({ rule, pointer }))
    .sort((a, b) => gravity(b.rule) - gravity(a.rule))
}

function gravity(rule: Rule): number {
  return rule.verdict === "blocked" ? 1 : 0
}

// Only what is meant for people leaves; anything else could carry the content itself.
function failureOf(error: unknown): string {
  return error instanceof ContentTooLarge ? error.message : "the policy could not be evaluated"
}
