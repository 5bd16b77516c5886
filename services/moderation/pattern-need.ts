/**
 * What a text must hold for a pattern to occur in it, read off the pattern's syntax tree.
 *
 * 1. A need may be too weak, never too strong: what is not understood asks for nothing.
 * 2. Texts and needs are compared in one folded alphabet (`foldUnit`). Where RE2 takes two characters
 *    for the same, whatever the flags, folding makes them the same; it makes others the same too.
 */
import { RE2Set } from "re2js"

/** Of every clause at least one literal must occur, in a text of at least so many units. */
export interface PatternNeed {
  readonly units: number
  readonly clauses: readonly (readonly Literal[])[]
}

/** A folded literal; `atBoundary` where it must begin at a word boundary. */
export interface Literal {
  readonly text: string
  readonly atBoundary: boolean
}

/** Stands for everything beyond ASCII that is not equal to an ASCII letter by case. */
export const otherUnit = 0x80
const other = String.fromCharCode(otherUnit)
const boundary = "\u0081"
const kelvin = 0x212a
const longS = 0x17f

const maxExact = 32
const maxClass = 12
const maxLiterals = 64
const maxClauses = 3
const maxLiteralUnits = 16
const leastLiteralUnits = 2

/** A unit of a text in the folded alphabet: one case, one digit, one white space, one for the rest. */
export function foldUnit(unit: number): number {
  if (unit >= 0x61 && unit <= 0x7a) return unit
  if (unit >= 0x41 && unit <= 0x5a) return unit + 0x20
  if (unit >= 0x30 && unit <= 0x39) return 0x30
  if (unit === 0x20 || (unit >= 0x09 && unit <= 0x0d)) return 0x20
  if (unit < 0x80) return unit
  if (unit === kelvin) return 0x6b
  return unit === longS ? 0x73 : otherUnit
}

/** The need of a pattern that compiles. */
export function needOf(pattern: string): PatternNeed {
  const set = new RE2Set()
  const tree: Tree | undefined = set.regexps[set.add(pattern)]
  if (tree === undefined) return { units: 0, clauses: [] }
  const { units, exact, clauses } = read(tree)
  const distinct = new Map([...clauses, ...usable(exact)].map((each) => [each.join("\0"), each]))
  const strongest = [...distinct.values()].sort((a, b) => compare(b, a))
  return { units, clauses: strongest.slice(0, maxClauses).map((each) => each.map(toLiteral)) }
}

/** As much of RE2's tree as is looked at. */
interface Tree {
  readonly op: number
  readonly subs: readonly Tree[]
  readonly runes: ArrayLike<number>
  readonly min: number
}

/** What is known of all that a part of a pattern matches. */
interface Part {
  readonly units: number
  /** All that it matches, folded. */
  readonly exact: ReadonlySet<string> | undefined
  /** What all that it matches begins and ends with, where `exact` is not known. */
  readonly ends: ReadonlySet<string> | undefined
  /** All that it matches holds at least one of each. */
  readonly clauses: readonly Clause[]
}

type Clause = readonly string[]

// The library does not export the numbers of its operators, so that they are learnt from samples; one
// that changes its meaning is then unknown, and asks for nothing.
const op = {
  literal: opOf("a"),
  charClass: opOf("[a-c]"),
  capture: opOf("(a)"),
  plus: opOf("a+"),
  quest: opOf("a?"),
  concat: opOf("ab+"),
  alternate: opOf("ab|cd"),
  wordBoundary: opOf("\\b"),
}
const zeroWidth = new Set(["^", "$", "\\A", "\\z", "(?m:^)", "(?m:$)", "\\B"].map(opOf))

const nothing: Part = { units: 0, exact: undefined, ends: undefined, clauses: [] }
const empty: Part = exactly(0, new Set([""]))

function opOf(pattern: string): number {
  const set = new RE2Set()
  const tree: Tree | undefined = set.regexps[set.add(pattern)]
  return tree?.op ?? -1
}

function read(tree: Tree): Part {
  const [first] = tree.subs
  switch (tree.op) {
    case op.literal:
      return exactly(tree.runes.length, new Set([Array.from(tree.runes, foldRune).join("")]))
    case op.charClass:
      return readClass(tree.runes)
    case op.capture:
      return first === undefined ? nothing : read(first)
    case op.plus:
      return first === undefined ? nothing : repeated(read(first))
    case op.quest:
      return first === undefined ? nothing : optional(read(first))
    case op.concat:
      return inOrder(tree.subs.map(read))
    case op.alternate:
      return eitherOf(tree.subs.map(read))
    case op.wordBoundary:
      return exactly(0, new Set([boundary]))
    default:
      return zeroWidth.has(tree.op) ? empty : nothing
  }
}

function exactly(units: number, exact: ReadonlySet<string>): Part {
  return { units, exact, ends: exact, clauses: [] }
}

function foldRune(rune: number): string {
  if (rune > 0xffff) return other + other
  return String.fromCharCode(foldUnit(rune))
}

function readClass(runes: ArrayLike<number>): Part {
  const exact = new Set<string>()
  let hasOther = false
  for (let range = 0; range + 1 < runes.length; range += 2) {
    const lo = runes[range] ?? 0
    const hi = runes[range + 1] ?? 0
    for (let rune = lo; rune <= Math.min(hi, 0x7f); rune += 1) exact.add(foldRune(rune))
    const folding = [kelvin, longS].filter((rune) => rune >= lo && rune <= hi)
    for (const rune of folding) exact.add(foldRune(rune))
    hasOther ||= hi - Math.max(lo, 0x80) + 1 > folding.length
  }
  const isKnown = exact.size > 0 && exact.size <= maxClass
  if (!hasOther) return isKnown ? exactly(1, exact) : { ...nothing, units: 1 }
  // Beyond ASCII a character may be one unit or two, so that what is matched is not known exactly.
  return { ...nothing, units: 1, clauses: exact.size === 0 ? [[other]] : [] }
}

function repeated({ units, exact, ends, clauses }: Part): Part {
  return { units, exact: undefined, ends, clauses: [...clauses, ...usable(exact)] }
}

function optional({ exact }: Part): Part {
  return exact === undefined ? nothing : exactly(0, new Set(["", ...exact]))
}

/** Parts that follow each other: as long as all is known, every way to put them together. */
function inOrder(parts: readonly Part[]): Part {
  let units = 0
  const clauses: Clause[] = []
  let isExact = true
  let run: ReadonlySet<string> = new Set([""])
  for (const part of parts) {
    units += part.units
    const joined = part.ends === undefined ? undefined : product(run, part.ends)
    if (part.exact !== undefined && joined !== undefined) {
      run = joined
      continue
    }
    isExact = false
    clauses.push(...usable(joined ?? run), ...part.clauses)
    run = part.ends ?? new Set([""])
  }
  if (isExact) return exactly(units, run)
  return { units, exact: undefined, ends: undefined, clauses: [...clauses, ...usable(run)] }
}

function eitherOf(parts: readonly Part[]): Part {
  const units = Math.min(...parts.map((part) => part.units))
  const exact = union(parts.map((part) => part.exact && [...part.exact]))
  if (exact !== undefined && exact.length <= maxExact) return exactly(units, new Set(exact))
  const clause = union(
    parts.map((part) => [...part.clauses, ...usable(part.exact)].sort(compare).at(-1)),
  )
  const isShort = clause !== undefined && clause.length <= maxLiterals
  return { ...nothing, units, clauses: isShort ? [clause] : [] }
}

function union(sets: readonly (readonly string[] | undefined)[]): readonly string[] | undefined {
  const all = new Set<string>()
  for (const set of sets) {
    if (set === undefined) return undefined
    for (const each of set) all.add(each)
  }
  return [...all]
}

function product(
  heads: ReadonlySet<string>,
  tails: ReadonlySet<string>,
): ReadonlySet<string> | undefined {
  if (heads.size * tails.size > maxExact) return undefined
  return new Set([...heads].flatMap((head) => [...tails].map((tail) => head + tail)))
}

/** The clause that one of these strings must occur; none where one of them says too little. */
function usable(strings: ReadonlySet<string> | undefined): readonly Clause[] {
  if (strings === undefined) return []
  const literals = new Set<string>()
  for (const each of strings) {
    const literal = longestPiece(each)
    if (strengthOf(literal) < leastLiteralUnits) return []
    literals.add(literal)
  }
  return [[...literals]]
}

/** The longest piece between boundaries, led by the mark of the boundary that it begins at. */
function longestPiece(text: string): string {
  let longest = ""
  text.split(boundary).forEach((piece, index) => {
    const cut = piece.slice(0, maxLiteralUnits)
    if (cut.length > longest.length) longest = index === 0 ? cut : boundary + cut
  })
  return longest
}

// The weakest literal decides how often a text is looked at in vain; then all together.
function compare(one: Clause, another: Clause): number {
  const least = (literals: Clause) => Math.min(...literals.map(strengthOf))
  const mean = (literals: Clause) =>
    literals.reduce((sum, each) => sum + strengthOf(each), 0) / literals.length
  return least(one) - least(another) || mean(one) - mean(another)
}

// What lies beyond ASCII is rare in most texts.
function strengthOf(literal: string): number {
  if (literal.includes(other)) return maxLiteralUnits
  return literal.startsWith(boundary) ? literal.length - 0.5 : literal.length
}

function toLiteral(text: string): Literal {
  const atBoundary = text.startsWith(boundary)
  return { text: atBoundary ? text.slice(1) : text, atBoundary }
}
