/** The journal of a workspace: one chain however many write at once, and every alteration is seen. */
import { copyFileSync, mkdtempSync, readdirSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { create, toBinary } from "@bufbuild/protobuf"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { RunEventSchema } from "../../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { type Connection, connect, type Database, openDatabase } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { migrate } from "../../../mesh/migrations.ts"
import { emptyTestDatabase } from "../../../mesh/test-database.ts"
import { testDatabase, testRuntime } from "../../../mesh/testing.ts"
import { Change } from "../change/change.ts"
import { createChangeStore } from "../change/change-store.ts"
import { toRunEvents } from "../run/run-message.ts"
import { clockFrom, type RunRecord, type Snapshot } from "../run/snapshot.ts"
import { createStartStore, type Started } from "../start/start-store.ts"
import { type ChainHead, type ChainRow, verifyJournal } from "./journal-chain.ts"

type Config = Awaited<ReturnType<typeof testDatabase>>

const migrations = fileURLToPath(new URL("../migrations", import.meta.url))
let config: Config
let database: Database
let owner: Connection

beforeAll(async () => {
  config = await testDatabase("orchestrator")
  database = openDatabase(config, { runtime: testRuntime("orchestrator"), migrations })
  owner = await connect(config.ownerUrl)
  // The tester sees and alters what no role of the service may.
  for (const table of ["journal", "journal_heads"]) {
    await owner.query(`alter table ${table} no force row level security`)
  }
})
afterAll(async () => {
  await owner[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
  await config[Symbol.asyncDispose]()
})

describe("a journal", () => {
  it("is one chain without gaps while several replicas write to it", async () => {
    const workspaces = [newId(), newId(), newId()]
    const replicas = [newReplica(), newReplica(), newReplica()]
    const runs = Array.from({ length: 90 }, async (_, n) => {
      const replica = replicas[n % 3] ?? newReplica()
      let snapshot = await replica.start(workspaces[n % workspaces.length] ?? "")
      for (let step = 0; step < 10; step++) snapshot = await replica.go(snapshot, step % 2 === 0)
    })
    await Promise.all(runs)
    for (const workspaceId of workspaces) {
      const { rows, head } = await read(workspaceId)
      expect(rows).toHaveLength(30 * 11)
      expect(verifyJournal(workspaceId, rows, head)).toBeUndefined()
    }
  })

  it("begins once, however many runs of a new workspace are stored at once", async () => {
    const workspaceId = newId()
    const replicas = Array.from({ length: 4 }, newReplica)
    await Promise.all(Array.from({ length: 40 }, (_, n) => replicas[n % 4]?.start(workspaceId)))
    const { rows, head } = await read(workspaceId)
    expect(rows).toHaveLength(40)
    expect(verifyJournal(workspaceId, rows, head)).toBeUndefined()
  })

  it("goes on after the database was restored to a time before it began", async () => {
    const replica = newReplica()
    const workspaceId = newId()
    await replica.start(workspaceId)
    await owner.query("delete from journal where workspace_id = $1", [workspaceId])
    await owner.query("delete from journal_heads where workspace_id = $1", [workspaceId])
    await replica.start(workspaceId)
    const { rows, head } = await read(workspaceId)
    expect(verifyJournal(workspaceId, rows, head)).toBeUndefined()
  })

  it.each<[string, (rows: ChainRow[], other: readonly ChainRow[]) => ChainRow[], number, string]>([
    ["an altered entry", (rows) => with_(rows, 3, { entries: Buffer.from("x") }), 4, "altered"],
    ["an altered time", (rows) => with_(rows, 3, { createMicros: 1n }), 4, "altered"],
    ["another run", (rows) => with_(rows, 3, { runId: newId() }), 4, "altered"],
    ["a deleted row", (rows) => rows.toSpliced(3, 1), 4, "missing"],
    ["an inserted row", (rows) => rows.toSpliced(3, 0, rows[2] as ChainRow), 4, "missing"],
    [
      "two rows that changed places",
      (rows) => rows.toSpliced(3, 2, at(rows, 4, 4), at(rows, 3, 5)),
      4,
      "altered",
    ],
    ["a tail that was cut off", (rows) => rows.slice(0, -2), 9, "missing"],
    ["nothing at all", () => [], 1, "missing"],
    ["a row of another workspace", (rows, other) => rows.with(3, at(other, 3, 4)), 4, "altered"],
    ["rows after the head", (rows) => [...rows, at(rows, 9, 11)], 11, "altered"],
  ])("shows %s", async (_, alter, position, fault) => {
    const [ours, other] = [await tenRows(), await tenRows()]
    expect(verifyJournal(ours.workspaceId, ours.rows, ours.head)).toBeUndefined()
    const altered = alter([...ours.rows], other.rows)
    expect(verifyJournal(ours.workspaceId, altered, ours.head)).toEqual({ position, fault })
  })
})

describe("histories from before there was a journal", () => {
  it("are its first rows", async () => {
    await using old = await emptyTestDatabase("orchestrator")
    await using before = await connect(old.ownerUrl)
    const roles = { appUrl: old.appUrl, workerUrl: old.workerUrl }
    const folder = mkdtempSync(join(tmpdir(), "runwarden-migrations-"))
    for (const file of readdirSync(migrations).filter((name) => name < "0003")) {
      copyFileSync(join(migrations, file), join(folder, file))
    }
    await migrate(before, { folder, ...roles })
    rmSync(folder, { recursive: true })
    const [first, second] = [newSnapshot(newId()).run, newSnapshot(newId()).run]
    const reason = "r".repeat(300)
    for (const table of ["runs", "run_events"]) {
      await before.query(`alter table ${table} no force row level security`)
    }
    for (const run of [first, second]) {
      await before.query(
        `insert into runs (workspace_id, run_id, thread_id, requester_id, requester_role, state,
           plan_name, plan, input, step_count, epoch, event_count, trace_id, trace_parent,
           request_id, deadline)
         values ($1, $2, $3, $4, 2, 'running', '', '', '', 0, 1, 2, '', '', $5, now())`,
        [run.workspaceId, run.runId, run.threadId, run.requesterId, run.requestId],
      )
      for (const [index, kind] of [
        { case: "runStarted" as const, value: { planName: "old" } },
        { case: "runStateChanged" as const, value: { state: RunState.RUNNING, reason } },
      ].entries()) {
        const payload = Buffer.from(toBinary(RunEventSchema, create(RunEventSchema, { kind })))
        await before.query(
          "insert into run_events (workspace_id, run_id, sequence, payload) values ($1, $2, $3, $4)",
          [run.workspaceId, run.runId, index + 1, payload],
        )
      }
    }
    await migrate(before, { folder: migrations, ...roles })
    for (const table of ["journal", "journal_heads"]) {
      await before.query(`alter table ${table} no force row level security`)
    }
    for (const { workspaceId, runId } of [first, second]) {
      const { rows, head } = await read(workspaceId, before)
      expect(verifyJournal(workspaceId, rows, head)).toBeUndefined()
      const events = rows.flatMap((row) => toRunEvents({ ...row, createTime: new Date() }, 0))
      expect(rows.map((row) => row.runId)).toEqual([runId, runId])
      expect(events.map(({ sequence, kind }) => [Number(sequence), kind.case])).toEqual([
        [1, "runStarted"],
        [2, "runStateChanged"],
      ])
      expect(events[1]?.kind.value).toMatchObject({ reason })
    }
  })
})

/** One run in ten rows. */
async function tenRows() {
  const workspaceId = newId()
  const replica = newReplica()
  let snapshot = await replica.start(workspaceId)
  for (let step = 0; step < 9; step++) snapshot = await replica.go(snapshot, step % 2 === 0)
  return { workspaceId, ...(await read(workspaceId)) }
}

function with_(rows: ChainRow[], index: number, members: Partial<ChainRow>): ChainRow[] {
  return rows.with(index, { ...(rows[index] as ChainRow), ...members })
}

function at(rows: readonly ChainRow[], index: number, position: number): ChainRow {
  return { ...(rows[index] as ChainRow), position }
}

/** A process with stores of its own. */
function newReplica() {
  const starts = createStartStore(database, 100)
  const changes = createChangeStore(database, 100)
  return {
    async start(workspaceId: string): Promise<Snapshot> {
      const change = new Change(newSnapshot(workspaceId))
      change.open(true)
      const key = { workspaceId, requestId: newId(), method: "test", sha256: "" }
      const lease = { owner: newId(), leaseMs: 10_000 }
      const outcome: Started = await starts.start({ change, key, timeoutMs: 60_000, lease })
      if (outcome.kind !== "started") throw new Error("not started")
      return change.after(outcome.at)
    },
    async go(snapshot: Snapshot, isWaiting: boolean): Promise<Snapshot> {
      const change = new Change(snapshot)
      change.moveRun(isWaiting ? { kind: "wait", reason: "test" } : { kind: "resume" })
      const outcome = await changes.store(change)
      if (outcome.kind !== "stored") throw new Error("stale")
      return change.after(outcome.at)
    },
  }
}

function newSnapshot(workspaceId: string): Snapshot {
  const now = new Date()
  const run: RunRecord = {
    ...{ workspaceId, runId: newId(), threadId: newId(), isInLine: false, budget: undefined },
    ...{
      requesterId: newId(),
      requesterRole: 2,
      usedCalls: 0,
      usedInputTokens: 0,
      usedOutputTokens: 0,
      usedCostMicros: 0,
      eventCount: 0,
      payloadBytes: 0,
      startTime: undefined,
    },
    ...{ state: "queued", reason: "", policyDenial: undefined, moderationOutcome: undefined },
    ...{ planName: "test", plan: "{}", planArguments: [], input: "", stepIndex: 0, stepCount: 0 },
    ...{ epoch: 1, revision: 0, traceId: "", traceParent: "", requestId: newId() },
    ...{ deadline: new Date(now.getTime() + 60_000), createTime: now, updateTime: now },
    endTime: undefined,
  }
  return { run, calls: [], approval: undefined, clock: clockFrom(now) }
}

async function read(workspaceId: string, from: Connection = owner) {
  const rows = await from.query<ChainRow>(
    `select position, run_id as "runId", first_sequence as "firstSequence",
       entry_count as "entryCount", entries, hash,
       (extract(epoch from create_time) * 1000000)::bigint as "createMicros"
     from journal where workspace_id = $1 order by position`,
    [workspaceId],
  )
  const [head] = await from.query<ChainHead>(
    "select position, hash from journal_heads where workspace_id = $1",
    [workspaceId],
  )
  if (head === undefined) throw new Error("no head")
  return { rows: rows.map((row) => ({ ...row, createMicros: BigInt(row.createMicros) })), head }
}
