import {
  type ContentText,
  ContentTooLarge,
  type Place,
  pointerOf,
  textsOf,
} from "./content-text.ts"
import { foldCase, formsOf, isPlain } from "./normalised-text.ts"
import { windowUnits } from "./pattern-book.ts"
import { type CompiledRule, type JudgeInput, type Policy, toExpressionInput } from "./policy.ts"
import type { Rule } from "./rule.ts"
import { finish, type Steps } from "./slices.ts"

const unitsPerStep = 16_384

/** One rule that spoke, with the place of the text that matched, and how sure it is, from 0 to 1. */
export interface Match {
  readonly rule: Rule
  readonly pointer: string
  readonly score: number
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
    const texts = textsOf(input.content)
    yield* judgeTexts(policy, input, { texts, matched })
    yield* judgeByClassifiers(policy, input, { texts, matched })
  } catch (error) {
    return { kind: "failed", failure: failureOf(error), matches: toMatches(matched) }
  }
  const matches = toMatches(matched)
  if (matches.some((match) => match.rule.verdict === "blocked")) return { kind: "blocked", matches }
  if (matches.length > 0) return { kind: "flagged", matches }
  return { kind: "allowed" }
}

/** The rules that matched, each with the place of the first text that did; none for the whole. */
type Matched = Map<CompiledRule, Found>

interface Found {
  readonly place: Place | undefined
  readonly score: number
}

const certain = { place: undefined, score: 1 }

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
    else if (result.value) matched.set(rule, certain)
    yield
  }
  return failure
}

/** The texts of a content, and what has been found in it. */
interface Search {
  readonly texts: readonly ContentText[]
  readonly matched: Matched
}

function* judgeTexts(
  policy: Policy,
  input: JudgeInput,
  { texts, matched }: Search,
): Steps<undefined> {
  const applying = new Map<CompiledRule, boolean>()
  const open = (index: number | undefined): CompiledRule | undefined => {
    const rule = index === undefined ? undefined : policy.rules[index]
    if (rule === undefined || matched.has(rule)) return undefined
    const applies = applying.get(rule) ?? rule.applies(input)
    applying.set(rule, applies)
    return applies ? rule : undefined
  }
  let unitsSinceYield = 0
  for (const { place: at, text } of texts) {
    if (isHarmless(policy, text)) {
      unitsSinceYield += text.length
      if (unitsSinceYield > unitsPerStep) {
        unitsSinceYield = 0
        yield
      }
      continue
    }
    const { written, normalised } = yield* formsOf(text)
    for (const form of [written, ...normalised]) {
      if (form === undefined) continue
      const wanted = (pattern: number) => open(policy.ruleOfPattern[pattern]) !== undefined
      const patterns = yield* policy.patterns.find(form, wanted)
      const words = form === written ? [] : yield* policy.words.find(form)
      const found = [
        ...[...patterns].map((pattern) => policy.ruleOfPattern[pattern]),
        ...[...words].map((entry) => policy.ruleOfWords[entry]),
      ]
      for (const index of found) {
        const rule = open(index)
        if (rule !== undefined) matched.set(rule, { place: at, score: 1 })
      }
      yield
    }
  }
}

/** A shorter text says too little by itself; it is judged with all the others. */
const fewestUnitsAlone = 32

/**
 * Asks the classifiers about each text of some length, about all values together and about all keys:
 * what is said in pieces counts as if it were said at once.
 */
function* judgeByClassifiers(
  { classified }: Policy,
  input: JudgeInput,
  { texts, matched }: Search,
): Steps<undefined> {
  const asking = Map.groupBy(
    classified.filter(({ rule }) => rule.applies(input)),
    ({ classifier }) => classifier,
  )
  if (asking.size === 0) return
  for (const { place, text } of [...texts.filter(isLongEnough), ...joined(texts)]) {
    const normalised = isPlain(text) ? [text] : (yield* formsOf(text)).normalised
    for (const form of normalised) {
      const folded = foldCase(form)
      for (const [classifier, rules] of asking) {
        const scores = yield* classifier.scoresOf(folded)
        for (const { rule, label, threshold } of rules) {
          const said = scores[label] ?? Number.NaN
          // Where nothing is said that can be compared, the rule matches for certain.
          const score = Number.isNaN(said) ? certain.score : said
          if (score < threshold) continue
          const before = matched.get(rule)
          if (before === undefined || before.score < score) matched.set(rule, { place, score })
        }
      }
    }
  }
}

function isLongEnough({ text }: { readonly text: string }): boolean {
  return text.length >= fewestUnitsAlone
}

/** All values as one text and all keys as another, where that is not what stands alone already. */
function joined(texts: readonly ContentText[]): readonly Pick<ContentText, "place" | "text">[] {
  const values = texts.filter(({ isKey }) => !isKey)
  const keys = texts.filter(({ isKey }) => isKey)
  const together = (some: readonly ContentText[]) => some.map(({ text }) => text).join(" ")
  const [only, ...others] = values
  const isAlone = only === undefined || (others.length === 0 && isLongEnough(only))
  const place = others.length === 0 ? only?.place : undefined
  return [
    ...(isAlone ? [] : [{ place, text: together(values) }]),
    ...[{ place: undefined, text: together(keys) }].filter(isLongEnough),
  ]
}

/** True only for a text whose one form holds no pattern and no word, at the cost of a look at it. */
function isHarmless({ patterns, words }: Policy, text: string): boolean {
  return (
    text.length <= windowUnits && isPlain(text) && !patterns.mayMatch(text) && !words.mayHold(text)
  )
}

function toMatches(matched: Matched): readonly Match[] {
  return [...matched]
    .map(([{ rule }, { place, score }]) => ({ rule, pointer: pointerOf(place), score }))
    .sort((a, b) => gravity(b.rule) - gravity(a.rule))
}

function gravity(rule: Rule): number {
  return rule.verdict === "blocked" ? 1 : 0
}

// Only what is meant for people leaves; anything else could carry the content itself.
function failureOf(error: unknown): string {
  return error instanceof ContentTooLarge ? error.message : "the policy could not be evaluated"
}
