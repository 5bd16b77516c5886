import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { asAdmin, notesMigrations, openNotes } from "./fixtures/notes-database.ts"
import { testDatabase } from "./test-database.ts"

let notes: Awaited<ReturnType<typeof openNotes>>

beforeAll(async () => {
  notes = await openNotes()
})
afterAll(() => notes[Symbol.asyncDispose]())

const verify = () => notes.database.verify()

/** Breaks one thing, expects a refusal that names it, mends it, expects peace. */
async function seeRefused(breaking: string, mending: string, message: RegExp | string) {
  await verify()
  await asAdmin(notes.config, breaking)
  try {
    await expect(verify(), breaking).rejects.toThrow(message)
  } finally {
    await asAdmin(notes.config, mending)
  }
  await verify()
}

interface Policy {
  readonly tablename: string
  readonly policyname: string
  readonly role: string
  readonly qual: string
  readonly with_check: string | null
}

test("every single policy is missed when it is dropped, and noticed when it is opened", async () => {
  const policies = await asAdmin<Policy>(
    notes.config,
    `select tablename, policyname, roles[1]::text as role, qual, with_check
     from pg_policies where schemaname = 'public'`,
  )
  expect(policies.length).toBeGreaterThanOrEqual(8)
  for (const { tablename, policyname, role, qual, with_check } of policies) {
    const create = `create policy ${policyname} on ${tablename} to ${role} using (${qual})
      with check (${with_check ?? qual})`
    await seeRefused(
      `drop policy ${policyname} on ${tablename}`,
      create,
      `table ${tablename} has no policy`,
    )
    await seeRefused(
      `alter policy ${policyname} on ${tablename} to public`,
      `alter policy ${policyname} on ${tablename} to ${role}`,
      `policy ${policyname} on ${tablename} is for PUBLIC`,
    )
    if (!qual.includes("current_workspace")) continue
    for (const clause of ["using", "with check"]) {
      await seeRefused(
        `alter policy ${policyname} on ${tablename} ${clause} (true)`,
        `alter policy ${policyname} on ${tablename} ${clause} (${qual})`,
        `policy ${policyname} on ${tablename} does not ask for`,
      )
    }
  }
})

test("every tenant table must have row security on and forced, and must not be the server's", async () => {
  const tables = await asAdmin<{ table: string }>(
    notes.config,
    `select c.oid::regclass::text as table from pg_class c
     join pg_attribute a on a.attrelid = c.oid and a.attname = 'workspace_id'
     where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace`,
  )
  expect(tables.length).toBeGreaterThanOrEqual(5)
  for (const { table } of tables) {
    await seeRefused(
      `alter table ${table} no force row level security`,
      `alter table ${table} force row level security`,
      `table ${table} needs force`,
    )
    await seeRefused(
      `alter table ${table} disable row level security`,
      `alter table ${table} enable row level security`,
      `table ${table} needs enable`,
    )
    for (const role of ["projects_app", "projects_worker"]) {
      await seeRefused(
        `alter table ${table} owner to ${role}`,
        `alter table ${table} owner to projects_owner`,
        `role ${role} owns ${table}`,
      )
    }
  }
})

describe("a role that row security does not hold", () => {
  // Roles belong to the whole server, which other test files use too: each has a role of its own.
  for (const kind of ["app", "worker"] as const) {
    test(`is refused as ${kind}`, async () => {
      await using config = await testDatabase("telemetry", { migrations: notesMigrations })
      const { openNotesAgain } = await import("./fixtures/notes-database.ts")
      await using database = openNotesAgain(config)
      const role = `telemetry_${kind}`
      await database.verify()
      for (const [strong, weak, message] of [
        ["bypassrls", "nobypassrls", `role ${role} bypasses row security`],
        ["superuser", "nosuperuser", `role ${role} is a superuser`],
      ] as const) {
        await asAdmin(config, `alter role ${role} ${strong}`)
        await expect(database.verify()).rejects.toThrow(message)
        await asAdmin(config, `alter role ${role} ${weak}`)
      }
      await asAdmin(config, `grant telemetry_owner to ${role}`)
      await expect(database.verify()).rejects.toThrow(`role ${role} owns`)
      await asAdmin(config, `revoke telemetry_owner from ${role}`)
      await database.verify()
    })
  }
})

test("a view of a tenant table must ask as its caller", async () => {
  await seeRefused(
    "create view all_notes as select * from notes",
    "drop view all_notes",
    "view all_notes needs security_invoker",
  )
})
