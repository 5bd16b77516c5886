// The databases keep workspaces apart by themselves: what every statement asks for besides is left
// out here, as if a `where` had been forgotten.
import path from "node:path"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { type Database, openDatabase, readDatabaseConfig, type Tx } from "../mesh/database.ts"
import { type ServiceName, serviceNames } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { testRuntime, until } from "../mesh/testing.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"
import { populate } from "./population.ts"

let mesh: TestMesh
let ours: TestWorkspace
let theirs: TestWorkspace

beforeAll(async () => {
  mesh = await startTestMesh({
    env: {
      TELEMETRY_ALERT_P2_MODERATION_BLOCK_RATE_MIN_SAMPLE: "1",
      TELEMETRY_ALERT_DEBOUNCE_MS: "10",
    },
  })
  ours = await mesh.addWorkspace()
  theirs = await mesh.addWorkspace()
  for (const workspace of [ours, theirs]) {
    await populate(mesh, workspace)
    await execute(workspace)
  }
}, 60_000)
afterAll(() => mesh?.[Symbol.asyncDispose]())

/** Tables of one row per workspace or more, that are sure to hold some of both. */
const sure: Readonly<Record<ServiceName, readonly string[]>> = {
  gateway: ["workspaces", "actors", "members", "api_keys", "requests"],
  orchestrator: [
    ...["runs", "journal", "tool_calls", "approvals", "verdicts", "requests"],
    ...["approval_rule_versions", "approval_rule_books", "delegations"],
  ],
  tools: ["executions"],
  moderation: ["policies", "policy_versions", "decisions", "requests"],
  retrieval: ["documents", "document_versions", "postings", "corpora", "requests"],
  telemetry: ["run_records", "approval_states", "alerts"],
  projects: ["projects", "documents", "requests"],
}

describe.each(serviceNames)("the database of %s", (service) => {
  async function withDatabase<T>(work: (database: Database) => Promise<T>): Promise<T> {
    const migrations = path.resolve(import.meta.dirname, "../services", service, "migrations")
    await using database = openDatabase(readDatabaseConfig(service, mesh.env), {
      runtime: testRuntime(service),
      migrations,
    })
    return await work(database)
  }

  test("shows a workspace its own rows in every table, and nobody's to nobody", async () => {
    await withDatabase(async (database) => {
      const { workspaceId } = ours
      const tables = await database.shared((tx) => tenantTables(tx, "select"))
      const seen = await database.tenant(workspaceId, (tx) => owners(tx, tables))
      for (const [table, found] of seen) {
        expect([table, found.filter((id) => id !== workspaceId)]).toEqual([table, []])
      }
      for (const table of sure[service]) {
        expect([table, seen.get(table)]).toEqual([table, [workspaceId]])
      }
      for (const [table, found] of await database.shared((tx) => owners(tx, tables))) {
        expect([table, found]).toEqual([table, []])
      }
    })
  })

  test("shows a worker the rows of the workspaces it works for", async () => {
    await withDatabase(async (database) => {
      const { workspaceId } = ours
      const tables = await database.worker([], (tx) => tenantTables(tx, "select"))
      const content = tables.filter((table) => !/_(due|claims)$/.test(table))
      const seen = await database.worker([workspaceId], (tx) => owners(tx, content))
      for (const [table, found] of seen) {
        expect([table, found.filter((id) => id !== workspaceId)]).toEqual([table, []])
      }
      for (const [table, found] of await database.worker([], (tx) => owners(tx, content))) {
        expect([table, found]).toEqual([table, []])
      }
    })
  })

  test("takes no row from a workspace for another one", async () => {
    await withDatabase(async (database) => {
      const { workspaceId } = ours
      const tables = await database.shared((tx) => tenantTables(tx, "insert"))
      const refused: string[] = []
      for (const table of sure[service]) {
        if (!tables.includes(table)) continue
        const work = (tx: Tx) => copyRow(tx, table, theirs.workspaceId)
        const error = await database.tenant(workspaceId, work).catch((caught: unknown) => caught)
        expect([table, wordsOf(error)]).toEqual([
          table,
          expect.stringContaining("violates row-level security policy"),
        ])
        refused.push(table)
      }
      expect(refused).not.toEqual([])
    })
  })
})

/** A run that has something executed. */
async function execute({ workspaceId, member }: TestWorkspace): Promise<void> {
  const runs = mesh.client(RunService, member)
  const { run } = await runs.startRun({
    workspaceId,
    requestId: newId(),
    plan: { name: "make", steps: [{ tool: "project.create", arguments: { name: "Made" } }] },
  })
  const runId = run?.runId ?? ""
  await until(async () => {
    const found = await runs.getRun({ workspaceId, runId })
    return found.run?.state === RunState.SUCCEEDED
  })
}

async function tenantTables(tx: Tx, privilege: "select" | "insert"): Promise<string[]> {
  const rows = await tx.query<{ readonly name: string }>(
    `select c.relname as name from pg_class c
     join pg_attribute a on a.attrelid = c.oid and a.attname = 'workspace_id' and not a.attisdropped
     where c.relkind in ('r', 'p') and c.relnamespace::regnamespace::text !~ '^(pg_|information)'
       and has_column_privilege(c.oid, a.attnum, 'select')
       and has_column_privilege(c.oid, a.attnum, $1::text)
     order by 1`,
    [privilege],
  )
  return rows.map(({ name }) => name)
}

/** Copies a row that is seen into another workspace. */
async function copyRow(tx: Tx, table: string, workspaceId: string): Promise<unknown> {
  const columns = await tx.query<{ readonly name: string }>(
    `select quote_ident(attname) as name from pg_attribute
     where attrelid = $1::regclass and attnum > 0 and not attisdropped and attgenerated = ''`,
    [table],
  )
  const names = columns.map(({ name }) => name)
  const values = names.map((name) => (name === "workspace_id" ? "$1::uuid" : name))
  return await tx.query(
    `insert into ${table} (${names}) select ${values.join(", ")} from ${table} limit 1`,
    [workspaceId],
  )
}

/** Whose rows a transaction sees, table by table. */
async function owners(
  tx: Tx,
  tables: readonly string[],
): Promise<ReadonlyMap<string, readonly string[]>> {
  const found = new Map<string, readonly string[]>()
  for (const table of tables) {
    const rows = await tx.query<{ readonly id: string }>(
      `select distinct workspace_id as id from ${table}`,
    )
    found.set(
      table,
      rows.map(({ id }) => id),
    )
  }
  return found
}

/** What an error and those that it came from say. */
function wordsOf(error: unknown): string {
  if (!(error instanceof Error)) return `no error: ${JSON.stringify(error)}`
  return error.cause === undefined ? error.message : `${error.message}: ${wordsOf(error.cause)}`
}
