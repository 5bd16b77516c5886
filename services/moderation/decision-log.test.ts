import { join } from "node:path"
import { pino } from "pino"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type Connection, connect, type Database, openDatabase } from "../../mesh/database.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import type { TestDatabase } from "../../mesh/test-database.ts"
import { testDatabase, testRuntime, until } from "../../mesh/testing.ts"
import { shippedClassifiers } from "./classifier/embedded.ts"
import {
  createDecisionLog,
  type DecisionLog,
  type MadeDecision,
  maxBehind,
  maxBehindMs,
  maxWaiting,
} from "./decision-log.ts"
import { insertDecisions } from "./decision-store.ts"
import { readShippedPolicies } from "./default-policy.ts"
import { createPolicyBook, type PolicyBook } from "./policy-book.ts"

const shipped = readShippedPolicies(shippedClassifiers())
const { signal } = new AbortController()
let config: TestDatabase
let database: Database
let owner: Connection
let book: PolicyBook

beforeAll(async () => {
  config = await testDatabase("moderation")
  const migrations = join(import.meta.dirname, "migrations")
  database = openDatabase(config, { runtime: testRuntime("moderation"), migrations })
  owner = await connect(config.ownerUrl)
  await owner.query("alter table decisions no force row level security")
  await owner.query("alter table active_policies no force row level security")
  book = createPolicyBook({ database, shipped, classifiers: shippedClassifiers() })
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await owner[Symbol.asyncDispose]()
  await config[Symbol.asyncDispose]()
})

function made(workspaceId: string, policyVersion = "default@2"): MadeDecision {
  const decision = {
    decision_id: newId(),
    subject: "tool_arguments",
    verdict: "allowed" as const,
    categories: {},
    matched_rules: [],
    policy_version: policyVersion,
    content_digest: "0".repeat(64),
    tool: 'a/"b"{\\,}',
    run_id: newId(),
    step_index: 1,
    latency_micros: 12,
    failure: "",
  }
  return { workspaceId, decision, createTime: new Date() }
}

function openLog(lines: string[] = []): DecisionLog {
  const log = pino({ level: "warn" }, { write: (line: string) => lines.push(line) })
  return createDecisionLog({ database, book, log })
}

async function countOf(workspaceId: string): Promise<number> {
  const sql = "select count(*)::int as count from decisions where workspace_id = $1"
  const [row] = await owner.query<{ count: number }>(sql, [workspaceId])
  return row?.count ?? 0
}

/** Keeps every insert waiting until it is let go. */
async function holdInserts() {
  const holder = await connect(config.ownerUrl)
  await holder.query("begin")
  await holder.query("lock table decisions in share mode")
  return { [Symbol.asyncDispose]: () => holder[Symbol.asyncDispose]() }
}

/** Has every insert fail until it is mended. */
async function breakInserts() {
  const worker = new URL(config.workerUrl).username
  await owner.query(`revoke insert on decisions from "${worker}"`)
  return {
    async [Symbol.asyncDispose]() {
      await owner.query(`grant insert on decisions to "${worker}"`)
    },
  }
}

describe("decisions that are answered before they are stored", () => {
  it("are stored right after, as they were, those of many workspaces by one statement", async () => {
    await using log = openLog()
    const all = Array.from({ length: 20 }, () => made(newId()))
    for (const each of all) expect(log.storeBehind(each)).toBe(true)
    const stored = () =>
      owner.query<{ at: string; tool: string; create_time: Date; xmin: string }>(
        "select decision_id as at, tool, create_time, xmin::text from decisions where workspace_id = any ($1)",
        [all.map(({ workspaceId }) => workspaceId)],
      )
    await until(async () => (await stored()).length === all.length)
    const rows = await stored()
    for (const { decision, createTime } of all) {
      const row = rows.find(({ at }) => at === decision.decision_id)
      expect(row).toMatchObject({ tool: decision.tool, create_time: createTime })
    }
    expect(new Set(rows.map(({ xmin }) => xmin)).size).toBe(1)
  })

  it("are never more than the bound; then a decision is stored first", async () => {
    await using log = openLog()
    const workspaceId = newId()
    await using held = await holdInserts()
    for (let count = 0; count < maxBehind; count += 1) {
      expect(log.storeBehind(made(workspaceId))).toBe(true)
    }
    expect(log.storeBehind(made(workspaceId))).toBe(false)
    let isStored = false
    const first = log.store(made(workspaceId), signal).then((stored) => {
      isStored = stored
    })
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(isStored).toBe(false)
    await held[Symbol.asyncDispose]()
    await first
    expect(isStored).toBe(true)
    await until(async () => (await countOf(workspaceId)) === maxBehind + 1)
    expect(log.storeBehind(made(workspaceId))).toBe(true)
  })

  it("wait no longer than the bound; then a decision is stored first", async () => {
    await using log = openLog()
    const workspaceId = newId()
    await using held = await holdInserts()
    const start = performance.now()
    expect(log.storeBehind(made(workspaceId))).toBe(true)
    let answered = 1
    await until(() => {
      const isTaken = log.storeBehind(made(workspaceId))
      answered += isTaken ? 1 : 0
      return !isTaken
    })
    const heldMs = performance.now() - start
    expect(heldMs).toBeGreaterThanOrEqual(maxBehindMs)
    // Long before the insert fails because it waits for a lock for two seconds.
    expect(heldMs).toBeLessThan(maxBehindMs + 1_000)
    await held[Symbol.asyncDispose]()
    await until(async () => (await countOf(workspaceId)) === answered)
    expect(log.storeBehind(made(workspaceId))).toBe(true)
  })

  it("are repeated when storing fails; until that succeeds nothing else is answered unstored", async () => {
    const lines: string[] = []
    await using log = openLog(lines)
    const workspaceId = newId()
    await using broken = await breakInserts()
    expect(log.storeBehind(made(workspaceId))).toBe(true)
    await until(() => lines.length > 0)
    expect(log.storeBehind(made(workspaceId))).toBe(false)
    await expect(log.store(made(workspaceId), signal)).rejects.toThrow("permission denied")
    expect(log.storeBehind(made(workspaceId))).toBe(false)
    await broken[Symbol.asyncDispose]()
    await until(async () => (await countOf(workspaceId)) === 1)
    await until(() => log.storeBehind(made(workspaceId)))
    expect(lines[0]).toContain("decisions that were answered wait to be stored")
  })

  it("are all stored when the log is disposed of", async () => {
    const log = openLog()
    const workspaces = Array.from({ length: 5 }, newId)
    for (let count = 0; count < 300; count += 1) {
      expect(log.storeBehind(made(workspaces[count % 5] ?? ""))).toBe(true)
    }
    const disposed = log[Symbol.asyncDispose]()
    expect(log.storeBehind(made(workspaces[0] ?? ""))).toBe(false)
    await disposed
    const counts = await Promise.all(workspaces.map(countOf))
    expect(counts).toEqual([60, 60, 60, 60, 60])
  })

  it("are stored on disposal also when that fails at first", async () => {
    const lines: string[] = []
    const log = openLog(lines)
    const workspaceId = newId()
    const broken = await breakInserts()
    expect(log.storeBehind(made(workspaceId))).toBe(true)
    const disposed = log[Symbol.asyncDispose]()
    await until(() => lines.length > 0)
    await broken[Symbol.asyncDispose]()
    await disposed
    expect(await countOf(workspaceId)).toBe(1)
  })

  it("are in the log, with what the caller was told, when disposal cannot store them", async () => {
    const lines: string[] = []
    const log = openLog(lines)
    await using _broken = await breakInserts()
    const lost = made(newId())
    expect(log.storeBehind(lost)).toBe(true)
    await log[Symbol.asyncDispose]()
    const last: unknown = JSON.parse(lines.at(-1) ?? "")
    const { decision_id, verdict, policy_version, content_digest, run_id } = lost.decision
    expect(last).toMatchObject({
      msg: "a decision was answered and may not be stored",
      workspaceId: lost.workspaceId,
      ...{ decision_id, verdict, policy_version, content_digest, run_id },
    })
  }, 15_000)

  it("are stored, and say so, when their version was replaced in the meantime", async () => {
    await using log = openLog()
    const workspaceId = newId()
    await activate(workspaceId, "fruit@1", 1)
    const late = made(workspaceId)
    expect(log.storeBehind(late)).toBe(true)
    await log.tried(workspaceId)
    const rows = await owner.query(
      "select policy_version, replaced_by from decisions where workspace_id = $1",
      [workspaceId],
    )
    expect(rows).toEqual([{ policy_version: "default@2", replaced_by: "fruit@1" }])
    expect(await book.activeVersion(workspaceId, signal)).toBe("fruit@1")
  })
})

describe("decisions that are stored before they are answered", () => {
  it("are not stored when their version was replaced, and the book knows by which", async () => {
    await using log = openLog()
    const [mine, theirs] = [newId(), newId()]
    await activate(mine, "fruit@1", 1)
    const results = await Promise.all([
      log.store(made(mine), signal),
      log.store(made(theirs), signal),
      log.store(made(mine, "fruit@1"), signal),
    ])
    expect(results).toEqual([false, true, true])
    expect([await countOf(mine), await countOf(theirs)]).toEqual([1, 1])
    expect(book.isInForce(mine, "fruit@1")).toBe(true)
    expect(book.isInForce(mine, "default@2")).toBe(false)
  })

  it("are refused when too many wait", async () => {
    const log = openLog()
    const workspaceId = newId()
    const held = await holdInserts()
    const all = Array.from({ length: maxWaiting }, () => log.store(made(workspaceId), signal))
    const refused = log.store(made(workspaceId), signal)
    await expect(refused).rejects.toSatisfy((e) => reasonOf(e) === "DEPENDENCY_UNAVAILABLE")
    await held[Symbol.asyncDispose]()
    expect(new Set(await Promise.all(all))).toEqual(new Set([true]))
    await log[Symbol.asyncDispose]()
  })
})

describe("the statement", () => {
  it("stores a decision once, however often it is sent", async () => {
    const item = { ...made(newId()), isAnswered: true }
    await insertDecisions(database, [item, item], "default@2")
    await insertDecisions(database, [item], "default@2")
    expect(await countOf(item.workspaceId)).toBe(1)
  })

  it("reaches no workspace that its transaction does not name", async () => {
    const foreign = newId()
    const text = `insert into decisions (workspace_id, decision_id, subject, verdict, categories,
      matched_rules, policy_version, content_digest, tool, run_id, latency_micros, failure)
      select $1::uuid, $2::uuid, 'run_input', 'allowed', '{}', '[]', 'x', 'x', 'x', $2::uuid, 1, ''`
    const statement = { name: "storeForeign", text }
    const call = database.batch([newId()], statement, [foreign, newId()])
    await expect(call).rejects.toThrow("row-level security")
    await activate(foreign, "fruit@1", 1)
    const read = { name: "readForeign", text: "select policy_version from active_policies" }
    expect(await database.batch([newId()], read, [])).toEqual([])
    expect(await database.batch([foreign], read, [])).toEqual([{ policy_version: "fruit@1" }])
  })
})

async function activate(workspaceId: string, version: string, revision: number): Promise<void> {
  await owner.query(
    `insert into active_policies (workspace_id, policy_version, revision, activator)
     values ($1::uuid, $2::text, $3::bigint, 'x')`,
    [workspaceId, version, revision],
  )
}
