/**
 * Everything there is to know once the dust has settled, as plain data: what clients were told, what
 * the databases hold, what the provider did, what telemetry counts. The invariants are functions of
 * this and nothing else.
 */
import type { RunEvent } from "../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import type { HistoryEntry, StartedRun } from "./history.ts"
import type { LedgerLine } from "./ledger-file.ts"

export interface RunRow {
  readonly workspaceId: string
  readonly runId: string
  readonly requestId: string
  readonly state: string
  readonly reason: string
  readonly stepCount: number
  readonly requesterId: string
  readonly deadline: number
  readonly isEnded: boolean
}

export interface CallRow {
  readonly workspaceId: string
  readonly runId: string
  readonly stepIndex: number
  readonly key: string
  readonly tool: string
  readonly riskClass: string
  readonly state: string
  readonly reason: string
  readonly argumentsDigest: string
  readonly approvalDigest: string
  /** The result's own `next`; empty where there is no result. */
  readonly next: string
  /** What the error says of the effect: `true`, `false`, `unknown`, or empty. */
  readonly applied: string
}

export interface ApprovalRow {
  readonly workspaceId: string
  readonly approvalId: string
  readonly runId: string
  readonly stepIndex: number
  readonly state: string
  readonly digest: string
  /** Digest of the arguments that were shown. */
  readonly argumentsDigest: string
  readonly requesterId: string
  readonly deciderId: string
  readonly isDistinct: boolean
  readonly expireTime: number
  readonly decideTime: number | undefined
  readonly consumeTime: number | undefined
}

export interface ClaimRow {
  readonly workspaceId: string
  readonly runId: string
  readonly isOwned: boolean
  readonly dueTime: number
}

/** A row of the tools service's ledger. */
export interface ExecutionRow {
  readonly workspaceId: string
  readonly runId: string
  readonly stepIndex: number
  readonly key: string
  readonly state: string
  readonly attempts: number
  readonly next: string
}

/** A row of the journal as it is stored. */
export interface JournalRow {
  readonly workspaceId: string
  readonly position: number
  readonly runId: string
  readonly firstSequence: number
  readonly entryCount: number
  readonly createMicros: bigint
  readonly entries: Uint8Array
  /** Hexadecimal, like that of the head. */
  readonly hash: string
}

export interface JournalHead {
  readonly workspaceId: string
  readonly position: number
  readonly hash: string
}

/** One entry of a run's history. */
export interface EventRow {
  readonly workspaceId: string
  readonly runId: string
  readonly sequence: number
  readonly kind: RunEvent["kind"]
}

/** A table's row that names a workspace and a run. */
export interface Belonging {
  readonly table: string
  readonly workspaceId: string
  readonly runId: string
}

/** What telemetry says of a workspace. */
export interface Counts {
  readonly runs: Readonly<Record<string, number>>
  readonly calls: Readonly<Record<string, number>>
  readonly approvals: Readonly<Record<string, number>>
  readonly moderated: number
}

export interface World {
  readonly history: readonly HistoryEntry[]
  /** The clock of the database when it was read. */
  readonly now: number
  readonly runs: readonly RunRow[]
  readonly calls: readonly CallRow[]
  readonly approvals: readonly ApprovalRow[]
  readonly claims: readonly ClaimRow[]
  readonly executions: readonly ExecutionRow[]
  /** In the order of their positions, and of the sequences that they hold. */
  readonly journal: readonly JournalRow[]
  readonly heads: readonly JournalHead[]
  readonly events: readonly EventRow[]
  readonly belongings: readonly Belonging[]
  readonly ledger: readonly LedgerLine[]
  readonly counts: ReadonlyMap<string, Counts>
}

/** Every acknowledged StartRun. */
export function startedIn(history: readonly HistoryEntry[]): readonly StartedRun[] {
  return history.filter((entry) => entry.kind === "run_started")
}

/** Runs that a restore undid. */
export function lostIn(history: readonly HistoryEntry[]): ReadonlySet<string> {
  return new Set(history.flatMap((entry) => (entry.kind === "run_lost" ? [entry.runId] : [])))
}

export function effectsIn(ledger: readonly LedgerLine[]): readonly LedgerLine[] {
  return ledger.filter(({ kind }) => kind === "effect")
}
