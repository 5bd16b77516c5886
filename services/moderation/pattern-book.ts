import { RE2JS, RE2JSException, RE2Set } from "re2js"
import { createLiteralScan, type LiteralScan } from "./literal-scan.ts"
import { needOf } from "./pattern-need.ts"
import type { Steps } from "./slices.ts"

/**
 * All patterns of a policy, compiled. A text is judged in windows, and patterns in sets: one set
 * over one window is the unit of work between two yields, and its cost is bounded by
 * `maxSetSize × windowUnits` even where the engine falls back from its automaton to simulation.
 * Before that, one pass over the window says which patterns could occur in it at all.
 */
export interface PatternBook {
  /** False only where no pattern occurs in a text of at most `windowUnits`. */
  mayMatch(text: string): boolean
  /** Indices of the patterns among `wanted` that occur in a text and pass their check. */
  find(text: string, wanted: (pattern: number) => boolean): Steps<ReadonlySet<number>>
}

/** A compiled pattern and the test that its matches must pass. */
export interface Pattern {
  readonly regex: RE2JS
  readonly check: "none" | "luhn"
}

/** A pattern that cannot be used, with the reason for its author. */
export class InvalidPattern extends Error {
  override readonly name = "InvalidPattern"
}

export const maxPatternUnits = 512
export const maxProgramSize = 256
export const windowUnits = 4_096
export const overlapUnits = 1_024
const maxSetSize = 384
// Most texts are short, and for them fewer, larger sets stay within the same bound. Patterns with
// Unicode classes are left out of those: each class is hundreds of ranges to compile.
const shortUnits = 256
const maxShortSetSize = 1_536
const unicodeClass = /\\p/i
const maxRepeats = 512
const maxMatchesPerWindow = 512

/** Patterns that are looked for in one pass. */
interface PatternSet {
  readonly members: readonly number[]
  readonly set: RE2Set
}

/** Compiles one pattern. Throws `InvalidPattern` where it is broken or too costly. */
export function compilePattern(pattern: string): RE2JS {
  if (pattern.length > maxPatternUnits) {
    throw new InvalidPattern(`the pattern is longer than ${maxPatternUnits} characters`)
  }
  // Counted before compiling, because a repeat is compiled as so many copies.
  if (countRepeats(pattern) > maxRepeats) {
    throw new InvalidPattern(`its counted repeats sum up to more than ${maxRepeats}`)
  }
  const regex = compile(pattern)
  if (regex.programSize() > maxProgramSize) {
    throw new InvalidPattern(
      `it compiles to ${regex.programSize()} instructions, more than ${maxProgramSize}`,
    )
  }
  if (regex.test("")) throw new InvalidPattern("it matches the empty text, so it matches anything")
  return regex
}

/** Gathers compiled patterns into a book. */
export function* createPatternBook(patterns: readonly Pattern[]): Steps<PatternBook> {
  const scan = yield* createScan(patterns)
  const all = [...patterns.keys()]
  const isWide = (index: number) => unicodeClass.test(patterns[index]?.regex.pattern() ?? "")
  const sets = yield* gather(patterns, all, maxSetSize)
  const narrow = all.filter((index) => !isWide(index))
  const shortSets = [
    ...(yield* gather(patterns, narrow, maxShortSetSize)),
    ...(yield* gather(patterns, all.filter(isWide), maxSetSize)),
  ]
  return {
    mayMatch: (text) => scan.candidates(text).length > 0,
    find(text, wanted) {
      const fitting = text.length <= shortUnits ? shortSets : sets
      return find({ patterns, sets: fitting, scan }, text, wanted)
    },
  }
}

/** Whether the digits of a text end in a valid Luhn check digit. */
export function passesLuhn(text: string): boolean {
  const digits = text.replace(/\D/g, "")
  let sum = 0
  for (let fromRight = 0; fromRight < digits.length; fromRight += 1) {
    const digit = digits.charCodeAt(digits.length - 1 - fromRight) - 48
    const doubled = fromRight % 2 === 1 ? digit * 2 : digit
    sum += doubled > 9 ? doubled - 9 : doubled
  }
  return digits.length > 0 && sum % 10 === 0
}

/** The windows of a text: they overlap, and begin and end between words where they can. */
export function windowsOf(text: string): readonly string[] {
  if (text.length <= windowUnits) return [text]
  const windows: string[] = []
  for (let start = 0; ; ) {
    const end = start + windowUnits
    if (end >= text.length) return [...windows, text.slice(start)]
    windows.push(text.slice(start, betweenWords(text, end, 1)))
    start = betweenWords(text, end - overlapUnits, -1)
  }
}

function* createScan(patterns: readonly Pattern[]): Steps<LiteralScan> {
  const needs = []
  for (const { regex } of patterns) {
    needs.push(needOf(regex.pattern()))
    yield
  }
  return createLiteralScan(needs)
}

function* gather(
  patterns: readonly Pattern[],
  indices: readonly number[],
  maxSize: number,
): Steps<readonly PatternSet[]> {
  const sets: PatternSet[] = []
  let members: number[] = []
  let set = new RE2Set()
  let size = 0
  const close = () => {
    if (members.length === 0) return
    set.compile()
    sets.push({ members, set })
    members = []
    set = new RE2Set()
    size = 0
  }
  for (const index of indices) {
    const regex = patterns[index]?.regex
    if (regex === undefined) continue
    if (size + regex.programSize() > maxSize) close()
    members.push(index)
    set.add(regex.pattern())
    size += regex.programSize()
    yield
  }
  close()
  return sets
}

function* find(
  book: {
    readonly patterns: readonly Pattern[]
    readonly sets: readonly PatternSet[]
    readonly scan: LiteralScan
  },
  text: string,
  wanted: (pattern: number) => boolean,
): Steps<ReadonlySet<number>> {
  const { patterns, sets, scan } = book
  const found = new Set<number>()
  for (const window of windowsOf(text)) {
    const possible = new Set(
      scan.candidates(window).filter((index) => !found.has(index) && wanted(index)),
    )
    yield
    if (possible.size === 0) continue
    for (const { members, set } of sets) {
      if (!members.some((member) => possible.has(member))) continue
      for (const place of set.match(window)) {
        const index = members[place]
        const pattern = index === undefined ? undefined : patterns[index]
        if (index === undefined || pattern === undefined) continue
        if (!possible.has(index)) continue
        yield
        if (passes(pattern, window)) found.add(index)
      }
      yield
    }
  }
  return found
}

// Too many matches to check them all count as one that passed: nothing goes unjudged.
function passes({ regex, check }: Pattern, window: string): boolean {
  if (check === "none") return true
  const matcher = regex.matcher(window)
  for (let matches = 0; matches < maxMatchesPerWindow; matches += 1) {
    if (!matcher.find()) return false
    if (passesLuhn(matcher.group() ?? "")) return true
  }
  return true
}

function compile(pattern: string): RE2JS {
  try {
    return RE2JS.compile(pattern)
  } catch (error) {
    if (error instanceof RE2JSException || error instanceof RangeError) {
      throw new InvalidPattern(error.message.replace(/^error parsing regexp: /, ""), {
        cause: error,
      })
    }
    throw error
  }
}

function countRepeats(pattern: string): number {
  let sum = 0
  for (const [, least, most] of pattern.matchAll(/\{(\d{1,9})(?:,(\d{0,9}))?\}/g)) {
    sum += Math.max(Number(least), Number(most ?? 0))
  }
  return sum
}

function betweenWords(text: string, near: number, direction: 1 | -1): number {
  for (let step = 0; step < 64; step += 1) {
    const at = near + step * direction
    if (at >= text.length) return text.length
    if (text.charCodeAt(at) <= 0x20) return at
  }
  const unit = text.charCodeAt(near)
  return unit >= 0xdc00 && unit <= 0xdfff ? near + direction : near
}
