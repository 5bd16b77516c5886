import { ContentTooLarge, type Place, pointerOf, textsOf } from "./content-text.ts"
import { formsOf, isPlain } from "./normalised-text.ts"
import { windowUnits } from "./pattern-book.ts"
import { type CompiledRule, type JudgeInput, type Policy, toExpressionInput } from "./policy.ts"
import type { Rule } from "./rule.ts"
import { finish, type Steps } from "./slices.ts"

const unitsPerStep = 16_384

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
  const matched: Matched = new Map()
  try {
    const failure = yield* judgeExpressions(policy, input, matched)
    if (failure !== undefined) return { kind: "failed", failure, matches: toMatches(matched) }
    yield* judgeTexts(policy, input, matched)
  } catch (error) {
    return { kind: "failed", failure: failureOf(error), matches: toMatches(matched) }
  }
  const matches = toMatches(matched)
  if (matches.some((match) => match.rule.verdict === "blocked")) return { kind: "blocked", matches }
  if (matches.length > 0) return { kind: "flagged", matches }
  return { kind: "allowed" }
}

/** The rules that matched, each with the place of the first text that did; none for the whole. */
type Matched = Map<CompiledRule, Place | undefined>

/** Judges without giving way; for tests. */
export function judgeNow(policy: Policy, input: JudgeInput): Judgement {
  return finish(judge(policy, input))
}

function* judgeExpressions(
  policy: Policy,
  input: JudgeInput,
  matched: Matched,
): Steps<string | undefined> {
  let failure: string | undefined
  const expressionInput = toExpressionInput(input)
  for (const rule of policy.rules) {
    if (rule.expression === undefined || !rule.applies(input)) continue
    const result = rule.expression(expressionInput)
    if (result.kind === "failure") failure ??= `rule ${rule.rule.ruleId}: ${result.cause}`
    else if (result.value) matched.set(rule, undefined)
    yield
  }
  return failure
}

function* judgeTexts(policy: Policy, input: JudgeInput, matched: Matched): Steps<undefined> {
  const applying = new Map<CompiledRule, boolean>()
  const open = (index: number | undefined): CompiledRule | undefined => {
    const rule = index === undefined ? undefined : policy.rules[index]
    if (rule === undefined || matched.has(rule)) return undefined
    const applies = applying.get(rule) ?? rule.applies(input)
    applying.set(rule, applies)
    return applies ? rule : undefined
  }
  let unitsSinceYield = 0
  for (const { place: at, text } of textsOf(input.content)) {
    if (isHarmless(policy, text)) {
      unitsSinceYield += text.length
      if (unitsSinceYield > unitsPerStep) {
        unitsSinceYield = 0
        yield
      }
      continue
    }
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
        if (rule !== undefined) matched.set(rule, at)
      }
      yield
    }
  }
}

/** True only for a text whose one form holds no pattern and no word, at the cost of a look at it. */
function isHarmless({ patterns, words }: Policy, text: string): boolean {
  return (
    text.length <= windowUnits && isPlain(text) && !patterns.mayMatch(text) && !words.mayHold(text)
  )
}

function toMatches(matched: Matched): readonly Match[] {
  return [...matched]
    .map(([{ rule }, place]) => ({ rule, pointer: pointerOf(place) }))
    .sort((a, b) => gravity(b.rule) - gravity(a.rule))
}

function gravity(rule: Rule): number {
  return rule.verdict === "blocked" ? 1 : 0
}

// Only what is meant for people leaves; anything else could carry the content itself.
function failureOf(error: unknown): string {
  return error instanceof ContentTooLarge ? error.message : "the policy could not be evaluated"
}
