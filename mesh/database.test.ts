import { InMemorySpanExporter, SimpleSpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { ConfigError } from "./config.ts"
import {
  type Database,
  isUniqueViolation,
  openDatabase,
  readDatabaseConfig,
  type Tx,
} from "./database.ts"
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
})
afterAll(() => notes[Symbol.asyncDispose]())

const setting = (tx: Tx) =>
  tx.one<{ workspace: string | null; workspaces: string | null }>(
    `select current_setting('runwarden.workspace_id', true) as workspace,
            current_setting('runwarden.workspace_ids', true) as workspaces`,
  )

describe("row-level security", () => {
  test("a workspace sees its own rows and no others", async () => {
    const [ours, theirs] = [newId(), newId()]
    await database.tenant(ours, (tx) => addNote(tx, ours))
    expect(await countNotes(database, ours)).toBe(1)
    expect(await countNotes(database, theirs)).toBe(0)
  })

  test("without a workspace there are no rows, and none can be written", async () => {
    const ours = newId()
    await database.tenant(ours, (tx) => addNote(tx, ours))
    const seen = await database.shared((tx) => tx.query("select 1 from notes"))
    expect(seen).toEqual([])
    await expect(database.shared((tx) => addNote(tx, ours))).rejects.toThrow(/row-level security/)
  })

  test("a row of another workspace can be neither written, changed nor moved there", async () => {
    const [ours, theirs] = [newId(), newId()]
    await database.tenant(ours, (tx) => addNote(tx, ours))
    await expect(database.tenant(ours, (tx) => addNote(tx, theirs))).rejects.toThrow(/row-level/)
    await expect(
      database.tenant(ours, (tx) => tx.query("update notes set workspace_id = $1::uuid", [theirs])),
    ).rejects.toThrow(/row-level/)
    await database.tenant(theirs, (tx) => tx.query("update notes set text = 'taken'"))
    const { text } = await database.tenant(ours, (tx) =>
      tx.one<{ text: string }>("select text from notes"),
    )
    expect(text).toBe("hello")
  })

  test("a worker sees content of the workspaces that it names, and of those only", async () => {
    const [first, second, third] = [newId(), newId(), newId()]
    for (const id of [first, second, third]) await database.tenant(id, (tx) => addNote(tx, id))
    const count = (ids: string[]) =>
      database.worker(ids, (tx) => tx.query("select 1 from notes").then((rows) => rows.length))
    expect(await count([])).toBe(0)
    expect(await count([first])).toBe(1)
    expect(await count([first, third])).toBe(2)
  })

  test("without its policy the wall is gone: what this file checks can fail", async () => {
    await using open = await openNotes()
    const [ours, theirs] = [newId(), newId()]
    await open.database.tenant(ours, (tx) => addNote(tx, ours))
    await asAdmin(open.config, "alter table notes disable row level security")
    expect(await countNotes(open.database, theirs)).toBe(1)
    await open.database.tenant(ours, (tx) => addNote(tx, theirs))
    await expect(open.database.verify()).rejects.toThrow(
      "table notes needs enable row level security",
    )
  })

  test("a workspace id that is no UUID never reaches the database", () => {
    expect(() => database.tenant("' or true --", async () => 0)).toThrow(TypeError)
    expect(() => database.worker([newId(), "*"], async () => 0)).toThrow(TypeError)
  })
})

describe("a connection that is used again", () => {
  test("carries no workspace over, whatever ended the transaction before", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const ours = newId()
    const timeout = (tx: Tx) => tx.query("set local statement_timeout = 20; select pg_sleep(5)")
    const endings: readonly ((tx: Tx, abort: () => void) => Promise<unknown>)[] = [
      (tx) => addNote(tx, ours),
      () => Promise.reject(new Error("thrown")),
      (tx) => tx.query("select 1 / 0"),
      (tx) => timeout(tx),
      (tx, abort) => Promise.all([tx.query("select pg_sleep(5)"), Promise.resolve().then(abort)]),
      (tx) => tx.query("select pg_terminate_backend(pg_backend_pid())").catch(() => {}),
    ]
    for (const ending of endings) {
      const gone = new AbortController()
      const options = { signal: gone.signal }
      const work = (tx: Tx) => ending(tx, () => gone.abort())
      await one.database.tenant(ours, work, options).catch(() => {})
      const left = await one.database.shared(setting)
      // Postgres leaves '' where the setting was once known to the connection.
      expect([null, ""]).toContain(left.workspace)
      expect(await one.database.shared((tx) => tx.query("select 1 from notes"))).toEqual([])
      await one.database.worker([ours], work, options).catch(() => {})
      expect([null, ""]).toContain((await one.database.worker([newId()], setting)).workspace)
    }
    expect(await countNotes(one.database, ours)).toBe(2)
  })

  test("is refused to a Tx whose transaction has ended", async () => {
    let leaked: Tx | undefined
    await database.tenant(newId(), async (tx) => {
      leaked = tx
    })
    await expect(leaked?.query("select 1")).rejects.toThrow(/has ended/)
  })
})

describe("a caller that has gone", () => {
  test("holds no connection and leaves no query behind", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const gone = new AbortController()
    const waiting = one.database.tenant(newId(), (tx) => tx.query("select pg_sleep(4)"), {
      signal: gone.signal,
    })
    const sleeping = () =>
      asAdmin(one.config, "select 1 from pg_stat_activity where query = 'select pg_sleep(4)'")
    await until(async () => (await sleeping()).length === 1)
    gone.abort()
    await expect(waiting).rejects.toSatisfy((error) => reasonOf(error) === "CANCELLED")
    await until(async () => (await sleeping()).length === 0, { timeoutMs: 1_000 })
    expect(await countNotes(one.database, newId())).toBe(0)
  })

  test("gives its place in the queue for a connection up", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const release = Promise.withResolvers<void>()
    const holding = one.database.shared(() => release.promise)
    const signal = AbortSignal.timeout(50)
    const waiting = one.database.shared((tx) => tx.query("select 1"), { signal })
    await expect(waiting).rejects.toSatisfy((error) => reasonOf(error) === "CANCELLED")
    release.resolve()
    await holding
    expect(await one.database.shared((tx) => tx.query("select 1 as x"))).toEqual([{ x: 1 }])
  })

  test("writes nothing", async () => {
    const ours = newId()
    const gone = new AbortController()
    const writing = database.tenant(
      ours,
      async (tx) => {
        await addNote(tx, ours)
        gone.abort()
        await addNote(tx, ours)
      },
      { signal: gone.signal },
    )
    await expect(writing).rejects.toSatisfy((error) => reasonOf(error) === "CANCELLED")
    expect(await countNotes(database, ours)).toBe(0)
  })
})

describe("a transaction", () => {
  test("is repeated after a conflict with another", async () => {
    const ours = newId()
    const [first, second] = await database.tenant(ours, async (tx) => [
      await addNote(tx, ours),
      await addNote(tx, ours),
    ])
    let runs = 0
    let holding = 0
    const barrier = Promise.withResolvers<void>()
    const update = async (tx: Tx, ids: readonly (string | undefined)[]) => {
      runs++
      await tx.query("update notes set size = size + 1 where note_id = $1::uuid", [ids[0]])
      if (++holding === 2) barrier.resolve()
      await barrier.promise
      await tx.query("update notes set size = size + 1 where note_id = $1::uuid", [ids[1]])
    }
    await Promise.all([
      database.tenant(ours, (tx) => update(tx, [first, second])),
      database.tenant(ours, (tx) => update(tx, [second, first])),
    ])
    const sizes = await database.tenant(ours, (tx) =>
      tx.query<{ size: number }>("select size from notes"),
    )
    expect(sizes).toEqual([{ size: 2 }, { size: 2 }])
    expect(runs).toBeGreaterThan(2)
  })

  test("is repeated when its connection broke before the commit", async () => {
    const ours = newId()
    let runs = 0
    await database.tenant(ours, async (tx) => {
      await addNote(tx, ours)
      if (++runs === 1) await tx.query("select pg_terminate_backend(pg_backend_pid())")
    })
    expect(runs).toBe(2)
    expect(await countNotes(database, ours)).toBe(1)
  })

  test("fails when a statement failed and its error was swallowed", async () => {
    const ours = newId()
    const swallowing = database.tenant(ours, async (tx) => {
      await addNote(tx, ours)
      await tx.query("select 1 / 0").catch(() => {})
    })
    await expect(swallowing).rejects.toThrow(/rolled back/)
    expect(await countNotes(database, ours)).toBe(0)
  })

  test("survives the loss of every connection, in and out of use", async () => {
    const release = Promise.withResolvers<void>()
    const holding = database.shared(async (tx) => {
      await tx.query("select 1")
      await release.promise
      return tx.query("select 2 as x")
    })
    await asAdmin(
      config,
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and pid <> pg_backend_pid()`,
    )
    release.resolve()
    expect(await holding).toEqual([{ x: 2 }])
  })

  test("reads int8 as a number while it is exact, times as dates, JSON as values", async () => {
    const row = await database.shared((tx) =>
      tx.one(
        `select 42::int8 as small, 9007199254740993::int8 as large, '{1,2}'::int8[] as list,
           '2026-01-02T03:04:05Z'::timestamptz as time, '{"a":[1]}'::jsonb as json`,
      ),
    )
    expect(row).toEqual({
      small: 42,
      large: 9007199254740993n,
      list: [1, 2],
      time: new Date("2026-01-02T03:04:05Z"),
      json: { a: [1] },
    })
  })

  test("has a span with the name of the service and what it does", async () => {
    const exporter = new InMemorySpanExporter()
    const provider = new TracerProvider({ spanProcessors: [new SimpleSpanProcessor({ exporter })] })
    const traced = { ...runtime, tracer: provider.getTracer("test") }
    await using opened = openDatabase(config, { runtime: traced, migrations: notesMigrations })
    await opened.shared((tx) => tx.query("select 1"), { name: "listNotes" })
    expect(exporter.getFinishedSpans().map((span) => span.name)).toEqual(["projects.db listNotes"])
  })

  test("tells which unique index was broken", async () => {
    const ours = newId()
    const insertTwice = database.tenant(ours, async (tx) => {
      const id = await addNote(tx, ours)
      await tx.query("insert into notes (workspace_id, note_id, text) values ($1, $2, '')", [
        ours,
        id,
      ])
    })
    const error = await insertTwice.catch((cause: unknown) => cause)
    expect(isUniqueViolation(error)).toBe(true)
    expect(isUniqueViolation(error, "notes_pkey")).toBe(true)
    expect(isUniqueViolation(error, "other")).toBe(false)
  })
})

describe("a database that cannot be used", () => {
  test("is DEPENDENCY_UNAVAILABLE when it falls silent, and serves again when it is back", async () => {
    await using proxy = await tcpProxy(Number(new URL(config.appUrl).port))
    const url = new URL(config.appUrl)
    url.port = `${proxy.port}`
    await using far = openNotesAgain({ ...config, appUrl: url.href })
    await far.shared((tx) => tx.query("select 1"))
    proxy.setSilent(true)
    const failing = far.shared((tx) => tx.query("select 1"))
    await expect(failing).rejects.toSatisfy((e) => reasonOf(e) === "DEPENDENCY_UNAVAILABLE")
    proxy.setSilent(false)
    expect(await far.shared((tx) => tx.query("select 1 as x"))).toEqual([{ x: 1 }])
  }, 20_000)

  test("is DEPENDENCY_UNAVAILABLE when nothing listens, within seconds", async () => {
    const nowhere = config.appUrl.replace(/:\d+\//, ":1/")
    await using lost = openNotesAgain({ ...config, appUrl: nowhere })
    const failing = lost.shared((tx) => tx.query("select 1"))
    await expect(failing).rejects.toSatisfy((e) => reasonOf(e) === "DEPENDENCY_UNAVAILABLE")
  })

  test("is DEPENDENCY_UNAVAILABLE when every connection stays in use", async () => {
    await using one = await openNotes({ poolSize: 1 })
    const release = Promise.withResolvers<void>()
    const holding = one.database.shared(() => release.promise)
    const failing = one.database.shared((tx) => tx.query("select 1"))
    await expect(failing).rejects.toSatisfy((e) => reasonOf(e) === "DEPENDENCY_UNAVAILABLE")
    release.resolve()
    await holding
  })
})

test("the configuration is read from the environment, and all its problems are named at once", () => {
  const env = {
    TOOLS_DATABASE_URL: "postgres://app:x@db:5432/tools",
    TOOLS_WORKER_DATABASE_URL: "postgres://worker:x@db:5432/tools",
  }
  expect(readDatabaseConfig("tools", env)).toEqual({
    appUrl: env.TOOLS_DATABASE_URL,
    workerUrl: env.TOOLS_WORKER_DATABASE_URL,
    poolSize: 10,
  })
  const read = () => readDatabaseConfig("tools", { TOOLS_DATABASE_POOL_SIZE: "many" })
  expect(read).toThrow(ConfigError)
  expect(read).toThrow(/TOOLS_DATABASE_URL(.|\n)*TOOLS_WORKER(.|\n)*TOOLS_DATABASE_POOL_SIZE/)
})
