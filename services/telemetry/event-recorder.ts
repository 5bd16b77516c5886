/**
 * Takes events in: those of a run go into its record, those of all runs of a call in one statement.
 *
 * A record that is new is written as it is. One that is there already comes back from the statement,
 * what is new is added to it here, and it is written again, if its revision is still the same; else
 * it is read once more. So each event is stored once whatever else is written at the same moment,
 * nothing is locked between two statements, and after a failure the same call may be made again.
 */
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import type { Database } from "../../mesh/database.ts"
import type { Watch } from "./alert-evaluator.ts"
import { toEntry } from "./event-entry.ts"
import { readEntries } from "./record-codec.ts"
import { type RecordDraft, storeRecords } from "./record-store.ts"
import { type Entry, newEntries } from "./run-record.ts"

export interface WorkspaceEvents {
  readonly workspaceId: string
  readonly events: readonly Event[]
}

/** Of each workspace, how many of its events were not known before. */
export async function recordEvents(
  database: Database,
  workspaces: readonly WorkspaceEvents[],
  watch: Watch,
  signal: AbortSignal,
): Promise<readonly number[]> {
  const workspaceIds = workspaces.map(({ workspaceId }) => workspaceId)
  const counts = workspaces.map(() => 0)
  let drafts = workspaces.flatMap(({ events }, place) => draftsOf(place, events))
  for (let attempt = 1; drafts.length > 0; attempt++) {
    const watched = attempt === 1 ? watch.workspaceIds : []
    const request = { workspaceIds, drafts, watched, intervalMs: watch.intervalMs }
    const rows = await storeRecords(database, request, signal)
    const left = new Map(rows.map((row) => [row.n, row]))
    drafts = drafts.flatMap((draft, index) => {
      const held = left.get(index + 1)
      if (held !== undefined) return merged(draft, held)
      counts[draft.place] = (counts[draft.place] ?? 0) + draft.added.length
      return []
    })
  }
  return counts
}

/** One draft per run; events outside runs have one each. */
function draftsOf(place: number, events: readonly Event[]): readonly RecordDraft[] {
  const groups = new Map<string, { readonly isRun: boolean; readonly entries: Entry[] }>()
  for (const event of events) {
    const entry = toEntry(event)
    const isRun = event.runId !== ""
    const recordId = isRun ? event.runId.toLowerCase() : entry.eventId
    const group = groups.get(recordId)
    if (group === undefined) groups.set(recordId, { isRun, entries: [entry] })
    else group.entries.push(entry)
  }
  return Array.from(groups, ([recordId, { isRun, entries }]) => {
    const added = newEntries(entries)
    return { place, recordId, isRun, entries: added, added, revision: 1 }
  })
}

/** What is left to write of a draft whose record was there; nothing where it brings nothing new. */
function merged(
  draft: RecordDraft,
  { revision, entries }: { readonly revision: number | null; readonly entries: Buffer | null },
): readonly RecordDraft[] {
  // It was made or removed at this very moment: the next statement sees which.
  if (revision === null || entries === null)
    return [{ ...draft, entries: draft.added, revision: 1 }]
  const held = readEntries(entries)
  const added = newEntries(draft.added, held)
  if (added.length === 0) return []
  return [{ ...draft, entries: [...held, ...added], added, revision: revision + 1 }]
}
