import fc from "fast-check"
import pg from "pg"
import { afterAll, beforeAll, expect, test, vi } from "vitest"
import { getTypeParser } from "./database-pool.ts"
import { asAdmin, openNotes } from "./fixtures/notes-database.ts"
import { newId } from "./ids.ts"
import { roundTrip } from "./round-trip.ts"

let notes: Awaited<ReturnType<typeof openNotes>>
let client: pg.Client

beforeAll(async () => {
  notes = await openNotes()
  client = new pg.Client({ connectionString: notes.config.workerUrl, types: { getTypeParser } })
  await client.connect()
})
afterAll(async () => {
  await client.end()
  await notes[Symbol.asyncDispose]()
})

const one = async (text: string, ...values: unknown[]) => {
  const [row] = await roundTrip<{ value: unknown }>(client, [{ text, values }])
  return row?.value
}

test("what the statements before it set locally holds for the last one and is gone after it", async () => {
  const name = "runwarden.workspace_ids"
  const set = { text: "select set_config($1, $2, true)", values: [name, `{${newId()}}`] }
  const get = { text: "select current_setting($1, true) as value", values: [name] }
  const [inside] = await roundTrip<{ value: string }>(client, [set, get])
  expect(inside?.value).toBe(set.values[1])
  expect([null, ""]).toContain(await one(get.text, name))
  await roundTrip(client, [set, { text: "select 1 / 0", values: [] }]).catch(() => {})
  expect([null, ""]).toContain(await one(get.text, name))
})

test("what one of them wrote is undone when a later one fails", async () => {
  const workspaceId = newId()
  const set = {
    text: "select set_config('runwarden.workspace_ids', $1, false)",
    values: [`{${workspaceId}}`],
  }
  await roundTrip(client, [set])
  const insert = {
    text: "insert into notes (workspace_id, note_id, text) values ($1, $2, '')",
    values: [workspaceId, newId()],
  }
  const failing = roundTrip(client, [insert, { text: "select 1 / 0", values: [] }])
  await expect(failing).rejects.toThrow(/division by zero/)
  expect(await one("select count(*) as value from notes")).toBe(0)
})

test("a statement that failed to parse can be prepared when it has become right", async () => {
  const named = { name: "later", text: "select size as value from later", values: [] }
  await expect(roundTrip(client, [named])).rejects.toThrow(/does not exist/)
  const create = "create table later as select 7 as size; grant select on later to public"
  await asAdmin(notes.config, create)
  expect(await roundTrip(client, [named])).toEqual([{ value: 7 }])
  expect(await roundTrip(client, [named])).toEqual([{ value: 7 }])
})

test("a statement is prepared again after a while, for tables that have grown", async () => {
  const named = { name: "aged", text: "select 1 as value", values: [] }
  const preparedAt = () =>
    one("select prepare_time::text as value from pg_prepared_statements where name = 'aged'")
  await roundTrip(client, [named])
  const first = await preparedAt()
  await roundTrip(client, [named])
  expect(await preparedAt()).toBe(first)
  vi.spyOn(performance, "now").mockReturnValue(performance.now() + 11_000)
  expect(await roundTrip(client, [named])).toEqual([{ value: 1 }])
  vi.restoreAllMocks()
  expect(await preparedAt()).not.toBe(first)
})

test("every parameter arrives as it was sent", async () => {
  const text = fc.string({ unit: "grapheme" }).filter((value) => !value.includes("\0"))
  const bytes = fc.uint8Array().map((value) => Buffer.from(value))
  const nullable = <T>(item: fc.Arbitrary<T>) => fc.array(fc.option(item))
  const last = new Date("9999-12-31T23:59:59.999Z")
  const time = fc.date({ min: new Date(0), max: last, noInvalidDate: true })
  const cases = fc.oneof(
    fc.tuple(fc.constant("text"), text),
    fc.tuple(fc.constant("text[]"), nullable(text)),
    fc.tuple(fc.constant("bytea"), bytes),
    fc.tuple(fc.constant("bytea[]"), nullable(bytes)),
    fc.tuple(fc.constant("uuid[]"), nullable(fc.uuid())),
    fc.tuple(fc.constant("int8[]"), nullable(fc.maxSafeInteger())),
    fc.tuple(fc.constant("bool[]"), nullable(fc.boolean())),
    fc.tuple(fc.constant("timestamptz"), time),
    fc.tuple(fc.constant("timestamptz[]"), nullable(time)),
    fc.tuple(fc.constant("jsonb"), fc.dictionary(text, text)),
  )
  const arrives = async ([type, value]: readonly [string, unknown]) => {
    expect(await one(`select $1::${type} as value`, value)).toEqual(value)
  }
  await fc.assert(fc.asyncProperty(cases, arrives), { seed: 7, numRuns: 500 })
}, 20_000)
