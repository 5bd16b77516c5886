/**
 * Stores changes: one statement for all that are due at the same moment, whatever they consist of.
 *
 * 1. Every part of a change hangs on the update of its run, which asks for its epoch and its revision
 *    and, where an approval is used up, for a valid, unused yes to exactly that digest, given under
 *    the rules that are in force and by no delegation that is not. Where it updates nothing, nothing
 *    of the change is stored, and its caller is told that it is stale.
 * 2. Whatever belongs to a run moves its revision. A part that still finds fewer rows than it changes
 *    is a fault, which undoes the statement; the group then stores the others without it.
 * 3. Rows are locked in one order: runs by workspace and id, what belongs to them, heads of journals
 *    by workspace.
 * 4. The worker's role holds: only rows of the workspaces that the changes name are reached.
 */
import { type Database, isCheckViolation } from "../../../mesh/database.ts"
import { createFairGroup } from "../../../mesh/fair-group.ts"
import { usageLimit } from "../budget/budget-store.ts"
import type { Change } from "./change.ts"
import {
  type Answer,
  answerRow,
  askedRow,
  Content,
  callRow,
  givenRow,
  hasReservation,
  movedRow,
  runRow,
  verdictRow,
} from "./change-rows.ts"
import { changeStatement, maxChanges } from "./change-sql.ts"

/** What became of a change. */
export type Stored =
  | {
      readonly kind: "stored"
      /** When, by the clock of the database. */
      readonly at: Date
    }
  /** The run is not as the change found it: read it anew and decide again. */
  | { readonly kind: "stale" }
  /** It admits a call that has no room in its workspace's budget. */
  | { readonly kind: "exhausted" }

export interface ChangeStore extends AsyncDisposable {
  /**
   * Stores a change, and with it the answer to the request that led to it. A request whose id is
   * known already fails the change with a unique violation.
   */
  store(change: Change, answer?: Answer): Promise<Stored>
}

export interface Item {
  readonly change: Change
  readonly answer: Answer | undefined
}

/** What the statement answers: which changes were stored, and when. */
interface Reply {
  readonly stored: readonly number[]
  readonly time: Date
}

/** `maxOpenApprovals` may wait in a workspace; what would ask one more is stale. */
export function createChangeStore(database: Database, maxOpenApprovals: number): ChangeStore {
  const group = createFairGroup<Item, Stored>({
    name: "changes",
    maxItems: maxChanges,
    maxInFlight: 1,
    workspaceOf: ({ change }) => change.run.workspaceId,
    run: (items) => storeChanges(database, items, maxOpenApprovals),
  })
  return {
    store: (change, answer) =>
      group.add({ change, answer }).catch((error: unknown): Stored => {
        if (isCheckViolation(error, "approvals_open_limit")) return { kind: "stale" }
        if (isCheckViolation(error, usageLimit)) return { kind: "exhausted" }
        throw error
      }),
    [Symbol.asyncDispose]: () => group[Symbol.asyncDispose](),
  }
}

/** Stores changes, in a transaction of their own or in that of the `database` that is handed in. */
export async function storeChanges(
  database: Pick<Database, "batch">,
  items: readonly Item[],
  maxOpenApprovals: number,
): Promise<readonly Stored[]> {
  const sorted = items.toSorted((one, other) => compareRuns(one.change.run, other.change.run))
  const content = new Content()
  const rows = {
    runs: sorted.map(({ change }, n) => runRow(n, change, content)),
    verdicts: sorted.flatMap(({ change }, n) =>
      change.verdicts.map((verdict) => verdictRow(n, change, verdict)),
    ),
    calls: sorted.flatMap(({ change }, n) => change.calls.map((call) => callRow(n, change, call))),
    asked: sorted.flatMap(({ change }, n) =>
      change.approvals
        .filter((approval) => isNew(change, approval))
        .map((approval) => askedRow(n, change, approval, maxOpenApprovals)),
    ),
    moved: sorted.flatMap(({ change }, n) =>
      change.approvals
        .filter((approval) => !isNew(change, approval))
        .map((approval) => movedRow(n, change, approval)),
    ),
    given: sorted.flatMap(({ change }, n) =>
      change.answers.map((answer) => givenRow(n, change, answer)),
    ),
    answers: sorted.flatMap(({ answer }, n) =>
      answer === undefined ? [] : [answerRow(n, answer, content)],
    ),
  }
  const workspaceIds = [...new Set(rows.runs.map((row) => row.workspace_id))]
  const { runs, verdicts, calls, asked, moved, given, answers } = rows
  const approvals = [asked, moved, given]
  const parts = {
    approvals:
      approvals.some((each) => each.length > 0) ||
      runs.some((run) => run.approval_id !== undefined),
    rejudgements: verdicts.some((verdict) => !verdict.is_new),
    claims: runs.some(({ claim }) => claim !== undefined && claim !== "drop"),
    answers: answers.length > 0,
    reservations: sorted.some(({ change }) => hasReservation(change)),
  }
  const json = [runs, verdicts, calls].map((each) => JSON.stringify(each))
  const more = [...(parts.approvals ? approvals : []), ...(parts.answers ? [answers] : [])]
  const values = [...json, content.concat(), ...more.map((each) => JSON.stringify(each))]
  const [reply] = await database.batch<Reply>(workspaceIds, changeStatement(parts), values)
  if (reply === undefined) throw new Error("the statement answers one row")
  const stored = new Set(reply.stored.map((n) => sorted[n]))
  const at: Stored = { kind: "stored", at: reply.time }
  return items.map((item) => (stored.has(item) ? at : { kind: "stale" }))
}

/** The order in which rows of runs are locked. */
export function compareRuns(one: RunKey, other: RunKey): number {
  return compare(one.workspaceId, other.workspaceId) || compare(one.runId, other.runId)
}

interface RunKey {
  readonly workspaceId: string
  readonly runId: string
}

function compare(one: string, other: string): number {
  if (one === other) return 0
  return one < other ? -1 : 1
}

function isNew({ before }: Change, { approvalId }: Change["approvals"][number]): boolean {
  return before.approval?.approvalId !== approvalId
}
