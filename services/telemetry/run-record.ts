/**
 * What is known of one run, from the events that have arrived: pure, in any order, each event once.
 *
 * Invariants:
 * 1. A record is a set of entries by event id; taking in what it holds already changes nothing, and
 *    the order of arrival makes no difference to any figure.
 * 2. The latest of a run's or a call's entries is by (ended, time, event id): what has ended never
 *    changes, so that a clock which lags cannot bring it back to life.
 * 3. Events outside runs are a record each, of which only verdicts count.
 */

export type EntryKind = "run" | "tool_call" | "moderation" | "approval" | "resource" | "budget"

/** An event as it is kept; members that its kind does not have are empty. */
export interface Entry {
  /** Lower case, so that ids compare as Postgres compares them. */
  readonly eventId: string
  readonly micros: number
  readonly kind: EntryKind
  /** New state, verdict, or change. */
  readonly state: string
  readonly reason: string
  /** Name of the tool, of the budget, subject of the verdict, or kind of the resource. */
  readonly name: string
  /** Tool of the verdict, id of the approval, or of the resource. */
  readonly about: string
  readonly stepIndex: number
  readonly millis: number
  /** A verdict without moderation, or an approval by one admin alone. */
  readonly isMarked: boolean
  /** What a call used up; of a budget, how much is used and may be, and 0; absent where nothing is. */
  readonly amounts: Amounts | undefined
}

/** Of a call: tokens read, tokens written, cost in millionths. */
export type Amounts = readonly [number, number, number]

export interface RunRecord {
  /** The run, or the event where it belongs to none. */
  readonly recordId: string
  readonly isRun: boolean
  readonly entries: readonly Entry[]
}

/** States after which nothing follows; an outcome that is unknown is still to be settled. */
const endings: Readonly<Record<EntryKind, readonly string[]>> = {
  run: ["succeeded", "failed", "cancelled", "expired"],
  tool_call: ["denied", "expired", "succeeded", "failed", "cancelled"],
  approval: ["approved", "rejected", "expired", "cancelled", "superseded"],
  moderation: [],
  resource: [],
  budget: [],
}

export function isEnding({ kind, state }: Entry): boolean {
  return endings[kind].includes(state)
}

/** Whether an entry tells of a later state than another one of the same thing. */
export function isLater(entry: Entry, other: Entry): boolean {
  const ended = isEnding(entry)
  if (ended !== isEnding(other)) return ended
  if (entry.micros !== other.micros) return entry.micros > other.micros
  return entry.eventId > other.eventId
}

/** The entries that are not among those that are held, each once. */
export function newEntries(
  entries: readonly Entry[],
  held: readonly Entry[] = [],
): readonly Entry[] {
  const known = new Set<string>()
  for (const { eventId } of held) known.add(eventId)
  return entries.filter(({ eventId }) => known.size !== known.add(eventId).size)
}

/** What counts of a record: at most one run, its calls and its verdicts, each with its time. */
export interface Findings {
  readonly run: Entry | undefined
  readonly calls: readonly Entry[]
  readonly verdicts: readonly Entry[]
  /** What calls have used up, each entry for itself: what was reported once stays used. */
  readonly used: readonly Entry[]
  readonly warnings: readonly Entry[]
}

export function findingsOf({ entries, isRun }: Pick<RunRecord, "entries" | "isRun">): Findings {
  let run: Entry | undefined
  const calls = new Map<number, Entry>()
  const verdicts: Entry[] = []
  const used: Entry[] = []
  const warnings: Entry[] = []
  for (const entry of entries) {
    if (entry.kind === "moderation") verdicts.push(entry)
    else if (entry.kind === "budget") warnings.push(entry)
    else if (entry.kind === "run" && isRun) {
      if (run === undefined || isLater(entry, run)) run = entry
    } else if (entry.kind === "tool_call" && isRun) {
      if (entry.amounts !== undefined) used.push(entry)
      const latest = calls.get(entry.stepIndex)
      if (latest === undefined || isLater(entry, latest)) calls.set(entry.stepIndex, entry)
    }
  }
  return { run, calls: [...calls.values()], verdicts, used, warnings }
}

/** Verdicts that were given because moderation could not be had count as such. */
export function verdictOf({ state, isMarked }: Entry): string {
  return isMarked ? "unavailable" : state
}

/** How many of each: of the states of calls, of verdicts, and of warnings by what they are of. */
export type Tally = readonly [calls: Counts, verdicts: Counts, warnings?: Counts]
export type Counts = Readonly<Record<string, number>>

/** The tally as text: the same for the same counts, and empty where there is nothing to count. */
export function writeTally({ calls, verdicts, warnings }: Findings): string {
  if (calls.length === 0 && verdicts.length === 0 && warnings.length === 0) return ""
  const warned = warnings.length === 0 ? "" : `,${countsText(warnings.map(({ name }) => name))}`
  const states = countsText(calls.map(({ state }) => state))
  return `[${states},${countsText(verdicts.map(verdictOf))}${warned}]`
}

/** What all calls have used up; undefined where that is nothing. */
export function sumOf(used: readonly Entry[]): Amounts | undefined {
  if (used.length === 0) return undefined
  let [input, output, cost] = [0, 0, 0]
  for (const { amounts } of used) {
    input += amounts?.[0] ?? 0
    output += amounts?.[1] ?? 0
    cost += amounts?.[2] ?? 0
  }
  return [input, output, cost]
}

export function readTally(text: string): Tally {
  return text === "" ? [{}, {}] : JSON.parse(text)
}

function countsText(keys: readonly string[]): string {
  const [first] = keys
  if (first === undefined) return "{}"
  // As it is for most runs, and nothing has to be sorted.
  if (keys.every((key) => key === first)) return `{${JSON.stringify(first)}:${keys.length}}`
  const counts = new Map<string, number>()
  for (const key of keys) counts.set(key, (counts.get(key) ?? 0) + 1)
  const pairs = [...counts].sort(([a], [b]) => (a < b ? -1 : 1))
  return `{${pairs.map(([key, count]) => `${JSON.stringify(key)}:${count}`)}}`
}
