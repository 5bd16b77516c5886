/**
 * Patterns of schemas: ECMAScript's syntax, run by RE2, whose time grows with the text alone.
 *
 * 1. A pattern means what it means in ECMAScript, or is refused: what RE2 reads differently is
 *    written for it, and what it cannot do (look-around, back-references) is refused.
 * 2. The size of what RE2 makes of the patterns of one schema is bounded before it is made.
 */
import { RE2JS } from "re2js"
import { SchemaMeter } from "./meter.ts"
import { maxStates, refusePattern, toRe2 } from "./pattern-text.ts"
import { SchemaRefusal } from "./refusal.ts"

export interface SchemaPattern {
  /** Whether the pattern is found somewhere in the text; what that costs is paid first. */
  test(text: string): boolean
  toString(): string
}

/** The patterns of one schema, each made once. */
export interface PatternBook {
  readonly read: (pattern: string) => SchemaPattern
}

const maxLength = 512
const maxPatterns = 200
const maxStatesInAll = 20_000

export function createPatternBook(meter: SchemaMeter): PatternBook {
  const made = new Map<string, SchemaPattern>()
  let left = maxStatesInAll

  function make(pattern: string): SchemaPattern {
    if (made.size >= maxPatterns) {
      throw new SchemaRefusal(`The schema has more than ${maxPatterns} patterns.`)
    }
    if (pattern.length > maxLength)
      refusePattern(pattern, `it is longer than ${maxLength} characters`)
    const { expression, states } = toRe2(pattern)
    left -= states
    if (states > maxStates || left < 0) refusePattern(pattern, "it repeats too much")
    const compiled = compile(expression, pattern)
    const costOfCharacter = Math.max(1, states / 16) / 4
    return {
      test(text) {
        meter.spend(1 + text.length * costOfCharacter)
        return compiled.test(text)
      },
      // Ajv shares patterns by this text: two that had the same would be one.
      toString: () => pattern,
    }
  }

  return {
    read(pattern) {
      const known = made.get(pattern) ?? make(pattern)
      made.set(pattern, known)
      return known
    },
  }
}

/** Whether a pattern can be used as it is. */
export function isUsablePattern(pattern: string): boolean {
  try {
    createPatternBook(new SchemaMeter()).read(pattern)
    return true
  } catch (error) {
    if (error instanceof SchemaRefusal) return false
    throw error
  }
}

function compile(expression: string, pattern: string): RE2JS {
  try {
    return RE2JS.compile(expression)
  } catch (error) {
    return refusePattern(
      pattern,
      error instanceof Error ? error.message.slice(0, 200) : "unknown fault",
    )
  }
}
