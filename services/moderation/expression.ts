import {
  type CelInput,
  type CelResult,
  CelScalar,
  celEnv,
  celFunc,
  isCelError,
  parse,
  plan,
} from "@bufbuild/cel"
import type { RE2JS } from "re2js"
import { boundExpression, InvalidExpression, meterName } from "./expression-bounds.ts"
import { compilePattern, InvalidPattern } from "./pattern-book.ts"

/** What an expression can name. */
export interface ExpressionInput {
  readonly subject: string
  readonly tool: string
  /** The arguments of the call; empty unless they are what is judged. */
  readonly arguments: CelInput
  /** What is judged, whatever the subject. */
  readonly content: CelInput
  readonly actor: { readonly id: string; readonly role: string }
  readonly risk_class: string
  readonly effect: string
  readonly history: readonly string[]
  readonly provenance: readonly string[]
}

/** What came of an expression: a boolean, or the reason why there is none. */
export type ExpressionResult =
  | { readonly kind: "value"; readonly value: boolean }
  | { readonly kind: "failure"; readonly cause: string }

/** A compiled expression. Never throws. */
export type Expression = (input: ExpressionInput) => ExpressionResult

export const expressionLimitMs = 15
export const maxMeteredSteps = 20_000
const maxMatchWork = 1_500_000

/**
 * CEL has no cost limit of its own. The condition of every loop and the first operand of every call
 * go through the meter, which counts, looks at the CPU time of this thread (wall time would blame a
 * rule for a busy machine) and, once it tripped, fails every further step before it is taken. `error || true` is true in CEL, so a tripped meter is also asked for
 * at the end: no expression outruns its limit by swallowing the error.
 */
interface Meter {
  steps: number
  endMicros: number
  /** Before this, by the cheaper wall clock, no CPU time can be used up. */
  earliestEndMs: number
  tripped: string | undefined
}

const variables = {
  subject: CelScalar.STRING,
  tool: CelScalar.STRING,
  arguments: CelScalar.DYN,
  content: CelScalar.DYN,
  actor: CelScalar.DYN,
  risk_class: CelScalar.STRING,
  effect: CelScalar.STRING,
  history: CelScalar.DYN,
  provenance: CelScalar.DYN,
} as const

const knownFunctions = new Set([...celEnv().funcs].map((each) => each.name))

/**
 * Parses and plans an expression. Throws `InvalidExpression` with the place, where there is one:
 * broken syntax, an unknown name or function, a pattern that is no constant, too deep a nesting.
 */
export function compileExpression(source: string): Expression {
  const meter: Meter = { steps: 0, endMicros: 0, earliestEndMs: 0, tripped: undefined }
  const names = { variables: new Set(Object.keys(variables)), functions: knownFunctions }
  const { expr, patterns } = boundExpression(parseSource(source), names)
  const compiled = new Map(patterns.map((pattern) => [pattern, compileConstant(pattern)]))
  const env = celEnv({
    variables,
    funcs: [celFunc(meterName, [CelScalar.DYN], CelScalar.DYN, (value) => step(meter, value))],
    re2: {
      compile: (pattern) => ({ test: (text) => matches(meter, compiled.get(pattern), text) }),
    },
  })
  const run = plan(env, expr)
  return (input) => {
    meter.steps = 0
    const start = performance.now()
    meter.earliestEndMs = start + expressionLimitMs
    meter.endMicros = cpuAtMost(start) + expressionLimitMs * 1_000
    meter.tripped = undefined
    return toResult(meter, () => run(input as unknown as Parameters<typeof run>[0]))
  }
}

function toResult(meter: Meter, run: () => CelResult): ExpressionResult {
  try {
    const value = run()
    if (meter.tripped !== undefined) return { kind: "failure", cause: meter.tripped }
    if (typeof value === "boolean") return { kind: "value", value }
    return {
      kind: "failure",
      cause: isCelError(value) ? value.message : "the expression gives no boolean",
    }
  } catch (error) {
    return { kind: "failure", cause: error instanceof Error ? error.message : "unknown" }
  }
}

function step<T>(meter: Meter, value: T): T {
  meter.steps += 1
  if (meter.steps > maxMeteredSteps) trip(meter, `more than ${maxMeteredSteps} steps`)
  const mayBeOver = performance.now() > meter.earliestEndMs
  if (mayBeOver && cpuMicros() > meter.endMicros) trip(meter, `more than ${expressionLimitMs} ms`)
  return value
}

const lastRead = { atMs: Number.NEGATIVE_INFINITY, micros: 0 }

/** The CPU time used up to now, or up to a millisecond more: asking for it costs more than most rules. */
function cpuAtMost(nowMs: number): number {
  if (nowMs - lastRead.atMs > 1) {
    lastRead.atMs = nowMs
    lastRead.micros = cpuMicros()
  }
  return lastRead.micros + (nowMs - lastRead.atMs) * 1_000
}

function cpuMicros(): number {
  const { user, system } = process.threadCpuUsage()
  return user + system
}

function matches(meter: Meter, regex: RE2JS | undefined, text: string): boolean {
  if (regex === undefined) return trip(meter, "the pattern is not a constant")
  if (regex.programSize() * text.length > maxMatchWork) {
    return trip(meter, "a text too long for matches(); use a pattern rule")
  }
  return regex.test(text)
}

function trip(meter: Meter, cause: string): never {
  meter.tripped ??= cause
  throw new Error(meter.tripped)
}

function parseSource(source: string) {
  try {
    return parse(source).expr
  } catch (error) {
    const start = (error as { location?: { start?: { line: number; column: number } } }).location
      ?.start
    if (start !== undefined)
      throw new InvalidExpression(syntaxMessage(error), start, { cause: error })
    throw new InvalidExpression("it is nested too deeply", undefined, { cause: error })
  }
}

function syntaxMessage(error: unknown): string {
  const message = error instanceof Error ? error.message : ""
  return message.replace(/^(syntax error )?<input>:\d+:\d+: /, "")
}

function compileConstant(pattern: string): RE2JS {
  try {
    return compilePattern(pattern)
  } catch (error) {
    if (!(error instanceof InvalidPattern)) throw error
    throw new InvalidExpression(`in matches(): ${error.message}`, undefined, { cause: error })
  }
}
