import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, expect, test } from "vitest"
import { type Database, openDatabase } from "./database.ts"
import { asAdmin, notesMigrations, runtime } from "./fixtures/notes-database.ts"
import { SchemaError } from "./migrations.ts"
import { emptyTestDatabase, type TestDatabase } from "./test-database.ts"

let folder: string
let config: TestDatabase

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "runwarden-migrations-"))
  cpSync(notesMigrations, folder, { recursive: true })
  config = await emptyTestDatabase("projects")
})
afterEach(async () => {
  rmSync(folder, { recursive: true, force: true })
  await config[Symbol.asyncDispose]()
})

const open = (): Database => openDatabase(config, { runtime, migrations: folder })

const applied = () =>
  asAdmin<{ id: string }>(config, "select id from runwarden.migrations order by id").then((rows) =>
    rows.map((row) => row.id),
  )

const all = [
  "mesh/0001_create_workspace_settings",
  "mesh/0002_create_outbox",
  "mesh/0003_create_requests",
  "mesh/0004_prune_requests",
  "service/0001_create_notes",
]

test("from empty, the mesh's files and then the service's; again, nothing", async () => {
  await using database = open()
  await expect(database.verify()).rejects.toThrow(/older than the code.*0001_create_notes/)
  await database.migrate()
  expect(await applied()).toEqual(all)
  await database.migrate()
  expect(await applied()).toEqual(all)
  await database.verify()
})

test("twenty at once: each is applied once, and all of them find it done", async () => {
  await using stack = new AsyncDisposableStack()
  const databases = Array.from({ length: 20 }, () => stack.use(open()))
  await Promise.all(databases.map((database) => database.migrate()))
  expect(await applied()).toEqual(all)
})

test("a later file is added to a database with rows", async () => {
  await using database = open()
  await database.migrate()
  writeFileSync(join(folder, "0002_add_colour.sql"), "alter table notes add colour text;")
  await expect(database.verify()).rejects.toThrow(/service\/0002_add_colour not applied/)
  await database.migrate()
  expect((await applied()).at(-1)).toBe("service/0002_add_colour")
})

test("a file that was edited after it was applied is refused", async () => {
  await using database = open()
  await database.migrate()
  writeFileSync(join(folder, "0001_create_notes.sql"), "select 1;")
  await expect(database.migrate()).rejects.toThrow(/0001_create_notes was edited/)
  await expect(database.verify()).rejects.toThrow(SchemaError)
})

test("a database that is newer than the code is refused", async () => {
  await using database = open()
  await database.migrate()
  await asAdmin(config, "insert into runwarden.migrations values ('service/0009_x', 'x')")
  await expect(database.migrate()).rejects.toThrow(/newer than the code.*0009_x/)
})

test("a file that fails leaves nothing of itself, and says which it was", async () => {
  await using database = open()
  const file = join(folder, "0002_break.sql")
  writeFileSync(file, "create table half (id int); select 1 / 0;")
  await expect(database.migrate()).rejects.toThrow(/service\/0002_break failed.*division by zero/)
  expect(await applied()).toEqual(all)
  writeFileSync(file, "create table half (id int);")
  await database.migrate()
})

test("two files with one number are refused", async () => {
  await using database = open()
  writeFileSync(join(folder, "0001_again.sql"), "select 1;")
  await expect(database.migrate()).rejects.toThrow(/each number used once/)
})

test("without the owner's URL nothing is migrated", async () => {
  const { appUrl, workerUrl, poolSize } = config
  const deps = { runtime, migrations: folder }
  await using database = openDatabase({ appUrl, workerUrl, poolSize }, deps)
  await database.migrate()
  await expect(database.verify()).rejects.toThrow(/owner's database URL/)
})
