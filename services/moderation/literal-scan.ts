import { foldUnit, type Literal, type PatternNeed } from "./pattern-need.ts"

/** Finds in one pass over a text which patterns could occur in it. */
export interface LiteralScan {
  /** Indices of all patterns that a text may hold: maybe some too many, never one too few. */
  candidates(text: string): readonly number[]
}

/** A literal that ends in a state of the automaton, and the clause that asks for it. */
interface Found extends Literal {
  readonly clause: number
}

// Bounds the table of a policy, some 80 columns of four bytes; what does not fit is always a candidate.
const maxStates = 8_192
const foldedUnits = 0x81
const foldOfAscii = Uint8Array.from({ length: 0x80 }, (_, unit) => foldUnit(unit))
const nobody: readonly number[] = []

/** The literals of all needs in one automaton: one step per unit of a text, whatever their number. */
export function createLiteralScan(needs: readonly PatternNeed[]): LiteralScan {
  const always: number[] = []
  const patternOfClause: number[] = []
  const trie = createTrie()
  needs.forEach(({ clauses }, pattern) => {
    if (clauses.length === 0 || !trie.hasRoomFor(clauses)) always.push(pattern)
    else for (const clause of clauses) trie.plant(patternOfClause.push(pattern) - 1, clause)
  })
  const { next, columns, found } = trie.link()
  const columnOfAscii = Uint8Array.from(foldOfAscii, (folded) => columns[folded] ?? 0)
  const unitsOf = needs.map(({ units }) => units)
  const clausesOf = needs.map(({ clauses }) => clauses.length)
  // What was seen in the scan of that number; numbers spare clearing the tables for each text.
  const seenIn = new Float64Array(patternOfClause.length)
  const countedIn = new Float64Array(needs.length)
  const count = new Uint16Array(needs.length)
  let scans = 0

  const see = (clause: number, candidates: number[]): void => {
    if (seenIn[clause] === scans) return
    seenIn[clause] = scans
    const pattern = patternOfClause[clause] ?? 0
    const before = countedIn[pattern] === scans ? (count[pattern] ?? 0) : 0
    countedIn[pattern] = scans
    count[pattern] = before + 1
    if (before + 1 === clausesOf[pattern]) candidates.push(pattern)
  }
  return {
    candidates(text) {
      scans += 1
      let candidates: number[] | undefined
      let state = 0
      for (let at = 0; at < text.length; at += 1) {
        const unit = text.charCodeAt(at)
        const column = unit < 0x80 ? columnOfAscii[unit] : columns[foldUnit(unit)]
        const step = next[state + (column ?? 0)] ?? 0
        state = step >> 1
        if ((step & 1) === 0) continue
        candidates ??= []
        for (const { clause, atBoundary, text: literal } of found.get(state) ?? []) {
          if (atBoundary && !isBoundary(text, at + 1 - literal.length)) continue
          see(clause, candidates)
        }
      }
      if (candidates === undefined && always.length === 0) return nobody
      return [...always, ...(candidates ?? nobody)].filter(
        (pattern) => text.length >= (unitsOf[pattern] ?? 0),
      )
    },
  }
}

/** Aho and Corasick: a trie whose missing edges lead to where the longest suffix would be. */
function createTrie() {
  const edges: Map<number, number>[] = [new Map()]
  const ends: Found[][] = [[]]
  const childOf = (state: number, unit: number): number => {
    const known = edges[state]?.get(unit)
    if (known !== undefined) return known
    edges[state]?.set(unit, edges.length)
    ends.push([])
    return edges.push(new Map()) - 1
  }
  return {
    hasRoomFor(clauses: PatternNeed["clauses"]): boolean {
      const added = clauses.flat().reduce((sum, { text }) => sum + text.length, 0)
      return edges.length + added <= maxStates
    },
    plant(clause: number, literals: readonly Literal[]): void {
      for (const literal of literals) {
        let state = 0
        for (let at = 0; at < literal.text.length; at += 1) {
          state = childOf(state, literal.text.charCodeAt(at))
        }
        ends[state]?.push({ ...literal, clause })
      }
    },
    link() {
      const columns = new Uint8Array(foldedUnits)
      let width = 1
      for (const unit of new Set(edges.flatMap((edge) => [...edge.keys()]))) columns[unit] = width++
      // A state is named by where its row begins, which spares a multiplication for every unit; the
      // lowest bit of a step says whether something ends in the state that it leads to.
      const next = new Int32Array(edges.length * width)
      const found = new Map<number, readonly Found[]>()
      const suffixes = new Int32Array(edges.length)
      const queue = [0]
      for (const state of queue) {
        const row = state * width
        const suffix = suffixes[state] ?? 0
        if (state !== 0) next.copyWithin(row, suffix, suffix + width)
        for (const [unit, target] of edges[state] ?? []) {
          const column = columns[unit] ?? 0
          const targetSuffix = state === 0 ? 0 : (next[row + column] ?? 0) >> 1
          const here = [...(ends[target] ?? []), ...(found.get(targetSuffix) ?? [])]
          if (here.length > 0) found.set(target * width, here)
          suffixes[target] = targetSuffix
          next[row + column] = (target * width * 2) | (here.length > 0 ? 1 : 0)
          queue.push(target)
        }
      }
      return { next, columns, found }
    },
  }
}

function isBoundary(text: string, at: number): boolean {
  return isWord(text.charCodeAt(at - 1)) !== isWord(text.charCodeAt(at))
}

// As RE2 takes it: ASCII letters, digits and the underscore. NaN, before the start, is none of them.
function isWord(unit: number): boolean {
  const folded = unit < 0x80 ? (foldOfAscii[unit] ?? 0) : 0
  return (folded >= 0x61 && folded <= 0x7a) || folded === 0x30 || folded === 0x5f
}
