import { InMemorySpanExporter, SimpleSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { type Database, openDatabase, type Statement } from "./database.ts"
import { reasonOf } from "./errors.ts"
import {
  addNote,
  asAdmin,
  countNotes,
  notesMigrations,
  openNotes,
  openNotesAgain,
  runtime,
} from "./fixtures/notes-database.ts"
import { tcpProxy } from "./fixtures/tcp-proxy.ts"
import { newId } from "./ids.ts"
import type { TestDatabase } from "./test-database.ts"
import { until } from "./testing.ts"

let notes: Awaited<ReturnType<typeof openNotes>>
let database: Database
let config: TestDatabase

beforeAll(async () => {
  notes = await openNotes()
  ;({ database, config } = notes)
  // Sequences do not take part in transactions: they count attempts.
  await asAdmin(config, "create sequence attempts; grant all on attempts to public")
})
afterAll(() => notes[Symbol.asyncDispose]())

const insertNotes: Statement = {
  name: "insert-notes",
  text: `insert into notes (workspace_id, note_id, text)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[])
         returning note_id`,
}
const countAll: Statement = {
  name: "count-notes",
  text: "select workspace_id, count(*) as count from notes group by 1 order by 1",
}
const insert = (named: readonly string[], rows: readonly string[], into = database) =>
  into.batch<{ note_id: string }>(named, insertNotes, [
    rows,
    rows.map(() => newId()),
    rows.map((_, index) => `note ${index}`),
  ])
const isReason = (reason: string) => (error: unknown) => reasonOf(error) === reason
const attempts = async () => {
  const [row] = await asAdmin<{ value: number }>(config, "select nextval('attempts') as value")
  return Number(row?.value) - 1
}
const restart = () => asAdmin(config, "select setval('attempts', 1, false)")

describe("row-level security in a batch", () => {
  test("rows of all the workspaces that it names are written and read, in one statement", async () => {
    const [first, second] = [newId(), newId()].sort() as [string, string]
    expect(await insert([first, second], [first, second, second])).toHaveLength(3)
    expect(await database.batch([first, second], countAll, [])).toEqual([
      { workspace_id: first, count: 1 },
      { workspace_id: second, count: 2 },
    ])
  })

  test("rows of others are neither read, written nor changed", async () => {
    const [ours, theirs] = [newId(), newId()]
    await insert([theirs], [theirs])
    expect(await database.batch([ours], countAll, [])).toEqual([])
    expect(await database.batch([], countAll, [])).toEqual([])
    await expect(insert([ours], [ours, theirs])).rejects.toThrow(/row-level security/)
    expect(await countNotes(database, ours)).toBe(0)
    const take = { name: "take", text: "update notes set text = 'taken' returning 1" }
    expect(await database.batch([ours], take, [])).toEqual([])
    expect(await countNotes(database, theirs)).toBe(1)
  })

  test("no workspace is left on the connection, whatever ended the batch before", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const ours = newId()
    await insert([ours], [ours], one.database)
    await one.database.batch([ours], { name: "fail", text: "select 1 / 0" }, []).catch(() => {})
    const kill = "select pg_terminate_backend(pg_backend_pid())"
    await one.database.batch([ours], { name: "kill", text: kill }, []).catch(() => {})
    expect(await one.database.batch([], countAll, [])).toEqual([])
    expect(await one.database.batch([newId()], countAll, [])).toEqual([])
  })

  test("a workspace id that is no UUID never reaches the database", () => {
    expect(() => database.batch(["*"], countAll, [])).toThrow(TypeError)
  })
})

describe("a batch", () => {
  test("is written whole or not at all", async () => {
    const ours = newId()
    const id = newId()
    const twice = database.batch([ours], insertNotes, [
      [ours, ours],
      [id, id],
      ["a", "b"],
    ])
    await expect(twice).rejects.toThrow(/duplicate key/)
    expect(await countNotes(database, ours)).toBe(0)
  })

  test("is repeated after a deadlock", async () => {
    const ours = newId()
    const [a, b] = (await insert([ours], [ours, ours])).map((row) => row.note_id)
    const update: Statement = {
      name: "update-two",
      text: `with first as (
               update notes set size = size + 1 where workspace_id = $1::uuid and note_id = $2::uuid
               returning nextval('attempts'), pg_sleep(0.2)
             )
             update notes set size = size + 1 where workspace_id = $1::uuid and note_id = $3::uuid
               and (select count(*) from first) = 1
             returning size`,
    }
    await restart()
    await Promise.all([
      database.batch([ours], update, [ours, a, b]),
      database.batch([ours], update, [ours, b, a]),
    ])
    const sizes = await database.tenant(ours, (tx) => tx.query("select size from notes"))
    expect(sizes).toEqual([{ size: 2 }, { size: 2 }])
    expect(await attempts()).toBeGreaterThan(2)
  })

  test("is repeated when Postgres ends its connection before it was done", async () => {
    const ours = newId()
    await restart()
    const text = `with note as (
                    insert into notes (workspace_id, note_id, text)
                    values ($1::uuid, $2::uuid, 'once') returning 1
                  )
                  select case when nextval('attempts') = 1
                    then pg_terminate_backend(pg_backend_pid()) end from note`
    await database.batch([ours], { name: "terminated", text }, [ours, newId()])
    expect(await attempts()).toBe(2)
    expect(await countNotes(database, ours)).toBe(1)
  })

  test("is never sent again when its connection broke after it was sent", async () => {
    await using proxy = await tcpProxy(Number(new URL(config.appUrl).port))
    const url = new URL(config.workerUrl)
    url.port = `${proxy.port}`
    await using far = openNotesAgain({ ...config, workerUrl: url.href })
    const slow = { name: "slow", text: "select nextval('attempts'), pg_sleep(0.5)" }
    await far.batch([], countAll, [])
    await restart()
    const failing = far.batch([], slow, [])
    failing.catch(() => {})
    await until(() => asAdmin(config, "select 1 from attempts where is_called").then((r) => r[0]))
    proxy.cut()
    await expect(failing).rejects.toSatisfy(isReason("DEPENDENCY_UNAVAILABLE"))
    expect(await attempts()).toBe(1)
    expect(await far.batch([], countAll, [])).toEqual([])
  })

  test("is DEPENDENCY_UNAVAILABLE where nothing listens", async () => {
    const nowhere = config.workerUrl.replace(/:\d+\//, ":1/")
    await using lost = openNotesAgain({ ...config, workerUrl: nowhere })
    await expect(lost.batch([], countAll, [])).rejects.toSatisfy(isReason("DEPENDENCY_UNAVAILABLE"))
  })

  test("is taken back while it waits for a connection, and runs to its end once it is sent", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const ours = newId()
    const text = `insert into notes (workspace_id, note_id, text)
                  select $1::uuid, $2::uuid, pg_sleep(0.1)::text`
    const gone = new AbortController()
    const options = { signal: gone.signal }
    const slow = { name: "slow-insert", text }
    const sent = one.database.batch([ours], slow, [ours, newId()], options)
    const waiting = one.database.batch([ours], slow, [ours, newId()], options)
    await new Promise((resolve) => setTimeout(resolve, 50))
    gone.abort()
    await expect(waiting).rejects.toSatisfy(isReason("CANCELLED"))
    await sent
    expect(await countNotes(one.database, ours)).toBe(1)
  })

  test("is prepared once on a connection, with a plan that serves any number of rows", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const ours = newId()
    for (const rows of [1, 64, 2]) {
      await insert([ours], Array<string>(rows).fill(ours), one.database)
    }
    const prepared = {
      name: "prepared",
      text: `select name, custom_plans, generic_plans from pg_prepared_statements
             where name = 'insert-notes'`,
    }
    expect(await one.database.batch([], prepared, [])).toEqual([
      { name: "insert-notes", custom_plans: 0, generic_plans: 3 },
    ])
  })

  test("goes on after a migration changed the columns of its answer", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const ours = newId()
    await insert([ours], [ours], one.database)
    const all = { name: "all", text: "select * from notes" }
    const before = await one.database.batch<object>([ours], all, [])
    await asAdmin(one.config, "alter table notes add column colour text default 'red'")
    const after = await one.database.batch<object>([ours], all, [])
    expect(after).toEqual([{ ...before[0], colour: "red" }])
  })

  test("has one name for one statement", () => {
    const other = { ...countAll, text: "select 2" }
    expect(() => database.batch([], other, [])).toThrow(/another statement count-notes/)
  })

  test("refuses a parameter that cannot be sent, and leaves the connection usable", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const odd = one.database.batch([], { name: "odd", text: "select $1::text" }, [() => 1])
    await expect(odd).rejects.toThrow(/function cannot be a parameter/)
    expect(await one.database.batch([], countAll, [])).toEqual([])
  })

  test("has one span, named after its statement", async () => {
    const exporter = new InMemorySpanExporter()
    const provider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] })
    const traced = { ...runtime, tracer: provider.getTracer("test") }
    await using opened = openDatabase(config, { runtime: traced, migrations: notesMigrations })
    const ours = newId()
    await insert([ours], [ours, ours, ours], opened)
    expect(exporter.getFinishedSpans().map((span) => span.name)).toEqual([
      "projects.db insert-notes",
    ])
  })
})

test("control gets through while every other connection is busy", async () => {
  await using one = await openNotes({ poolSize: 1 })
  const ours = newId()
  const release = Promise.withResolvers<void>()
  const busy = [
    one.database.tenant(ours, () => release.promise),
    one.database.worker([ours], () => release.promise),
    one.database.batch([ours], { name: "sleep", text: "select pg_sleep(0.5)" }, []),
  ]
  const role = await one.database.control([ours], (tx) =>
    tx.one<{ sees: number }>("select count(*) as sees from notes", []),
  )
  expect(role).toEqual({ sees: 0 })
  await expect(one.database.control([ours], (tx) => addNote(tx, newId()))).rejects.toThrow(
    /row-level security/,
  )
  release.resolve()
  await Promise.all(busy)
})
