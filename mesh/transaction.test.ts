// What a transaction sends, and when; what it keeps from whom is in database.test.ts.
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import type { Database, Tx } from "./database.ts"
import {
  addNote,
  asAdmin,
  countNotes,
  openNotes,
  openNotesAgain,
} from "./fixtures/notes-database.ts"
import { tcpProxy } from "./fixtures/tcp-proxy.ts"
import { newId } from "./ids.ts"

let notes: Awaited<ReturnType<typeof openNotes>>
let proxy: Awaited<ReturnType<typeof tcpProxy>>
let database: Database

beforeAll(async () => {
  notes = await openNotes({ poolSize: 1 })
  proxy = await tcpProxy(Number(new URL(notes.config.appUrl).port))
  const url = new URL(notes.config.appUrl)
  url.port = `${proxy.port}`
  database = openNotesAgain({ ...notes.config, appUrl: url.href })
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await proxy[Symbol.asyncDispose]()
  await notes[Symbol.asyncDispose]()
})

const oneRead = { isOneRead: true }
const count = (tx: Tx) => tx.one<{ count: number }>("select count(*) as count from notes", [])

describe("round trips", () => {
  const roundTrips = async (work: (tx: Tx) => Promise<unknown>, options = {}) => {
    await database.tenant(newId(), count)
    const before = proxy.answers()
    await database.tenant(newId(), work, options)
    return proxy.answers() - before
  }

  test("one per statement and one for the commit", async () => {
    expect(await roundTrips(count)).toBe(2)
    expect(await roundTrips((tx) => count(tx).then(() => count(tx)))).toBe(3)
  })

  test("none for a transaction that asks nothing", async () => {
    expect(await roundTrips(async () => 1)).toBe(0)
  })

  test("one for one read", async () => {
    expect(await roundTrips(count, oneRead)).toBe(1)
  })
})

describe("one read", () => {
  test("sees the rows of its workspace alone, and leaves nothing on the connection", async () => {
    const ours = newId()
    await database.tenant(ours, (tx) => addNote(tx, ours))
    expect(await database.tenant(ours, count, oneRead)).toEqual({ count: 1 })
    expect(await database.tenant(newId(), count, oneRead)).toEqual({ count: 0 })
    expect(await database.shared(count, oneRead)).toEqual({ count: 0 })
    expect(await database.worker([ours], count, oneRead)).toEqual({ count: 1 })
    expect(await database.worker([], count, oneRead)).toEqual({ count: 0 })
    await database.tenant(ours, (tx) => addNote(tx, ours))
    expect(await database.shared(count)).toEqual({ count: 0 })
  })

  test("writes nothing", async () => {
    const ours = newId()
    await expect(database.tenant(ours, (tx) => addNote(tx, ours), oneRead)).rejects.toThrow()
    expect(await countNotes(database, ours)).toBe(0)
  })

  test("is one", async () => {
    const twice = database.tenant(newId(), (tx) => count(tx).then(() => count(tx)), oneRead)
    await expect(twice).rejects.toThrow(/one statement, which reads/)
  })

  test("is repeated when its connection broke", async () => {
    let runs = 0
    await database.shared(async (tx) => {
      runs++
      return tx.query(runs === 1 ? "select pg_terminate_backend(pg_backend_pid())" : "select 1", [])
    }, oneRead)
    // A machine that is busy may not give it a new connection at the first try.
    expect(runs).toBeGreaterThan(1)
  })
})

describe("a prepared statement", () => {
  test("survives a migration that changes its columns: the transaction is repeated", async () => {
    const ours = newId()
    await database.tenant(ours, (tx) => addNote(tx, ours))
    let runs = 0
    const all = (tx: Tx) => {
      runs++
      return tx.query<object>("select * from notes", [])
    }
    await database.tenant(ours, all)
    await asAdmin(notes.config, "alter table notes add column colour text default 'red'")
    const [note] = await database.tenant(ours, all)
    expect(note).toMatchObject({ colour: "red" })
    expect(runs).toBe(3)
  })
})
