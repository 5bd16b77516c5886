import type { JsonObject } from "@bufbuild/protobuf"
import type { Classifier } from "./classifier/embedded.ts"
import { compileExpression, type Expression, type ExpressionInput } from "./expression.ts"
import { InvalidExpression } from "./expression-bounds.ts"
import type { PatternBook } from "./pattern-book.ts"
import { compilePattern, createPatternBook, InvalidPattern, type Pattern } from "./pattern-book.ts"
import {
  type EffectName,
  type RiskName,
  type Rule,
  type ScopedCall,
  type SubjectName,
  scopeTest,
} from "./rule.ts"
import { finish, type Steps } from "./slices.ts"
import { createWordBook, type WordBook, wordsOf } from "./word-book.ts"

/** A rule of a compiled policy. */
export interface CompiledRule {
  readonly rule: Rule
  readonly applies: (call: ScopedCall) => boolean
  /** Present where the rule's matcher is an expression. */
  readonly expression: Expression | undefined
}

/** A policy that is ready to judge. Immutable; see `judge.ts`. */
export interface Policy {
  readonly policyVersion: string
  readonly rules: readonly CompiledRule[]
  readonly patterns: PatternBook
  /** The rule of each pattern of the book. */
  readonly ruleOfPattern: readonly number[]
  readonly words: WordBook
  /** The rule of each entry of the word book. */
  readonly ruleOfWords: readonly number[]
  readonly classified: readonly ClassifiedRule[]
}

/** A rule that asks a classifier, and the place of its label among the classifier's own. */
export interface ClassifiedRule {
  readonly rule: CompiledRule
  readonly classifier: Classifier
  readonly label: number
  readonly threshold: number
}

/** The classifiers that rules may name. */
export type Classifiers = ReadonlyMap<string, Classifier>

/** A policy that cannot be used: the field and what is wrong with it. */
export class InvalidPolicy extends Error {
  override readonly name = "InvalidPolicy"
  readonly field: string
  readonly reason: string

  constructor(field: string, reason: string, options?: ErrorOptions) {
    super(`${field}: ${reason}`, options)
    this.field = field
    this.reason = reason
  }
}

export const maxRules = 200
export const maxPatterns = 500
export const maxWords = 10_000

/**
 * Compiles the rules of a version, yielding between costly ones. Throws `InvalidPolicy` for the
 * first rule that is broken, cannot be bounded, is no boolean on a sample or names no classifier.
 */
export function* compilePolicy(
  policyVersion: string,
  rules: readonly Rule[],
  classifiers: Classifiers,
): Steps<Policy> {
  checkTotals(rules)
  const compiled: CompiledRule[] = []
  const patterns: Pattern[] = []
  const ruleOfPattern: number[] = []
  const words: (readonly string[])[] = []
  const ruleOfWords: number[] = []
  const classified: ClassifiedRule[] = []
  for (const [index, rule] of rules.entries()) {
    const { matcher } = rule
    let expression: Expression | undefined
    switch (matcher.kind) {
      case "expression":
        expression = yield* compileChecked(rule, matcher.expression, `rules[${index}].expression`)
        break
      case "patterns":
        for (const [place, pattern] of matcher.patterns.entries()) {
          const field = `rules[${index}].patterns.patterns[${place}]`
          patterns.push({ regex: compileNamed(pattern, field), check: matcher.check })
          ruleOfPattern.push(index)
          yield
        }
        break
      case "words":
        checkWords(matcher.words, `rules[${index}].words.words`)
        words.push(matcher.words)
        ruleOfWords.push(index)
        yield
        break
      case "classifier":
        break
      default:
        throw new InvalidPolicy(`rules[${index}]`, "it has no matcher")
    }
    const ready = { rule, applies: scopeTest(rule.scope), expression }
    compiled.push(ready)
    if (matcher.kind === "classifier") {
      classified.push({
        rule: ready,
        ...labelOf(classifiers, matcher, `rules[${index}].classifier`),
        threshold: matcher.threshold,
      })
    }
  }
  const book = yield* createPatternBook(patterns)
  return {
    policyVersion,
    rules: compiled,
    patterns: book,
    ruleOfPattern,
    words: createWordBook(words),
    ruleOfWords,
    classified,
  }
}

function labelOf(
  classifiers: Classifiers,
  named: { readonly classifier: string; readonly label: string },
  field: string,
): Pick<ClassifiedRule, "classifier" | "label"> {
  const classifier = classifiers.get(named.classifier)
  if (classifier === undefined) {
    const known = [...classifiers.keys()].join(", ")
    throw new InvalidPolicy(`${field}.classifier`, `it is none of those there are: ${known}`)
  }
  const label = classifier.labels.indexOf(named.label)
  if (label < 0) {
    const known = classifier.labels.join(", ")
    throw new InvalidPolicy(`${field}.label`, `"${named.classifier}" knows ${known}`)
  }
  return { classifier, label }
}

/** Compiles without giving way; for policies that ship with the service, and tests. */
export function compilePolicyNow(
  policyVersion: string,
  rules: readonly Rule[],
  classifiers: Classifiers,
): Policy {
  return finish(compilePolicy(policyVersion, rules, classifiers))
}

function checkTotals(rules: readonly Rule[]): void {
  if (rules.length === 0) throw new InvalidPolicy("rules", "a policy needs at least one rule")
  if (rules.length > maxRules) throw new InvalidPolicy("rules", `more than ${maxRules} rules`)
  const seen = new Set<string>()
  let patterns = 0
  let words = 0
  rules.forEach(({ ruleId, matcher }, index) => {
    if (seen.has(ruleId)) {
      throw new InvalidPolicy(`rules[${index}].rule_id`, `"${ruleId}" is there twice`)
    }
    seen.add(ruleId)
    patterns += matcher.kind === "patterns" ? matcher.patterns.length : 0
    words += matcher.kind === "words" ? matcher.words.length : 0
    if (patterns > maxPatterns) {
      throw new InvalidPolicy(`rules[${index}].patterns`, `more than ${maxPatterns} in all rules`)
    }
    if (words > maxWords) {
      throw new InvalidPolicy(`rules[${index}].words`, `more than ${maxWords} in all rules`)
    }
  })
}

function* compileChecked(rule: Rule, source: string, field: string): Steps<Expression> {
  const expression = compileNamedExpression(source, field)
  yield
  for (const input of samplesFor(rule)) {
    const result = expression(input)
    if (result.kind === "failure") {
      const hint = result.cause.startsWith("field not found") ? "; guard it with has()" : ""
      throw new InvalidPolicy(
        field,
        `on a sample of subject "${input.subject}" without any fields: ${result.cause}${hint}`,
      )
    }
    yield
  }
  return expression
}

function compileNamedExpression(source: string, field: string): Expression {
  try {
    return compileExpression(source)
  } catch (error) {
    if (!(error instanceof InvalidExpression)) throw error
    throw new InvalidPolicy(field, error.message, { cause: error })
  }
}

function compileNamed(pattern: string, field: string): Pattern["regex"] {
  try {
    return compilePattern(pattern)
  } catch (error) {
    if (!(error instanceof InvalidPattern)) throw error
    throw new InvalidPolicy(field, error.message, { cause: error })
  }
}

function checkWords(words: readonly string[], field: string): void {
  words.forEach((phrase, place) => {
    if (wordsOf(phrase).length === 0) {
      throw new InvalidPolicy(`${field}[${place}]`, "it holds no letter or digit")
    }
  })
}

/** The inputs on which every expression must give a boolean: each subject, with and without more. */
function samplesFor(rule: Rule): readonly ExpressionInput[] {
  const subjects: readonly SubjectName[] =
    rule.scope.subjects.length > 0
      ? rule.scope.subjects
      : ["run_input", "tool_arguments", "tool_result"]
  return subjects.flatMap((subject) => [
    toExpressionInput({ ...sample, subject }),
    toExpressionInput({
      ...sample,
      subject,
      tool: subject === "run_input" ? "" : "projects/project.create",
      history: ["projects/project.get", "retrieval/document.search"],
      provenance: ["retrieval/document.search"],
    }),
  ])
}

/** One thing to judge. */
export interface JudgeInput extends ScopedCall {
  readonly content: JsonObject
  readonly actor: { readonly id: string; readonly role: string }
  readonly risk: RiskName
  readonly effect: EffectName
  readonly history: readonly string[]
  readonly provenance: readonly string[]
}

const sample: JudgeInput = {
  subject: "run_input",
  tool: "",
  content: {},
  actor: { id: "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51", role: "member" },
  risk: "low",
  effect: "read",
  history: [],
  provenance: [],
}

/** What an expression sees of an input. */
export function toExpressionInput(input: JudgeInput): ExpressionInput {
  return {
    subject: input.subject,
    tool: input.tool,
    arguments: input.subject === "tool_arguments" ? (input.content as never) : {},
    content: input.content as never,
    actor: input.actor,
    risk_class: input.risk,
    effect: input.effect,
    history: input.history,
    provenance: input.provenance,
  }
}
