/**
 * What the databases hold of every acknowledged run, read as their administrator and compared with
 * what there must be: nothing else counts as proof that a run was done.
 */
import { type Connection, connect } from "../mesh/database.ts"
import { serviceNames } from "../mesh/identity.ts"
import { type BenchDatabases, databaseNameOf, urlOf } from "./bench-server.ts"
import type { AcknowledgedRun } from "./run-starter.ts"

export interface Recount {
  readonly runs: number
  /** How many runs lack what, with one of them for an example; empty when all is there. */
  readonly missing: readonly Missing[]
}

export interface Missing {
  readonly what: string
  readonly runs: number
  readonly example: string
}

interface Check {
  readonly database: "orchestrator" | "moderation" | "tools" | "telemetry" | "effects"
  /** By the name of what is counted, how many there must be of each run; the query's columns. */
  readonly expected: Readonly<Record<string, number>>
  /** One row per run of $1 (workspaces) and $2 (runs) that has any. */
  readonly query: string
}

const chunk = 10_000
const drainTimeoutMs = 120_000
const drainPollMs = 50

const checks: readonly Check[] = [
  {
    database: "orchestrator",
    expected: { "run that succeeded": 1 },
    query: `select r.run_id, count(*)::int as "run that succeeded"
      from unnest($1::uuid[], $2::uuid[]) as a (workspace_id, run_id)
      join runs r using (workspace_id, run_id) where r.state = 'succeeded' group by r.run_id`,
  },
  {
    database: "orchestrator",
    expected: { "call that succeeded": 3 },
    query: `select c.run_id, count(*)::int as "call that succeeded"
      from unnest($1::uuid[], $2::uuid[]) as a (workspace_id, run_id)
      join tool_calls c using (workspace_id, run_id)
      where c.state = 'succeeded' group by c.run_id`,
  },
  {
    database: "orchestrator",
    expected: { "history without a gap": 1 },
    query: `select j.run_id,
        (sum(entry_count) = max(r.event_count)
          and max(first_sequence + entry_count) = max(r.event_count) + 1)::int
          as "history without a gap"
      from unnest($1::uuid[], $2::uuid[]) as a (workspace_id, run_id)
      join runs r using (workspace_id, run_id) join journal j using (workspace_id, run_id)
      group by j.run_id`,
  },
  {
    database: "moderation",
    expected: { "decision on arguments": 3, "decision on a result": 3 },
    query: `select d.run_id,
        count(distinct step_index) filter (where subject = 'tool_arguments')::int
          as "decision on arguments",
        count(distinct step_index) filter (where subject = 'tool_result')::int
          as "decision on a result"
      from unnest($1::uuid[], $2::uuid[]) as a (workspace_id, run_id)
      join decisions d using (workspace_id, run_id) group by d.run_id`,
  },
  {
    database: "tools",
    expected: { "ledger row": 3 },
    query: `select e.run_id, count(*)::int as "ledger row"
      from unnest($1::uuid[], $2::uuid[]) as a (workspace_id, run_id)
      join executions e using (workspace_id, run_id)
      where e.state = 'succeeded' group by e.run_id`,
  },
  {
    database: "effects",
    expected: { effect: 3 },
    query: `select e.run_id, count(*)::int as effect
      from unnest($1::uuid[], $2::uuid[]) as a (workspace_id, run_id)
      join effects e using (workspace_id, run_id) group by e.run_id`,
  },
  {
    database: "telemetry",
    // The tally is the calls by state, then the verdicts. A call that was approved was judged once more.
    expected: {
      "run delivered to telemetry": 1,
      "call delivered to telemetry": 3,
      "verdict delivered to telemetry": 6,
    },
    query: `select r.record_id as run_id, 1 as "run delivered to telemetry",
        coalesce((r.tally::json->0->>'succeeded')::int, 0) as "call delivered to telemetry",
        least(verdicts.count, 6)::int as "verdict delivered to telemetry"
      from unnest($1::uuid[], $2::uuid[]) as a (workspace_id, run_id)
      join run_records r on r.workspace_id = a.workspace_id and r.record_id = a.run_id
      cross join lateral (select coalesce(sum(value::int), 0) as count
        from json_each_text(r.tally::json->1)) as verdicts
      where r.state = 'succeeded' and r.tally <> ''`,
  },
]

export interface Recounter extends AsyncDisposable {
  /** Resolves when everything that services tell telemetry has arrived there. */
  drained(): Promise<void>
  recount(runs: readonly AcknowledgedRun[]): Promise<Recount>
}

export function createRecounter(adminUrl: string, databases: BenchDatabases): Recounter {
  const connections = new Map<string, Promise<Connection>>()

  function connection(database: Check["database"] | (typeof serviceNames)[number]) {
    const url =
      database === "effects" ? databases.effectsUrl : asAdmin(adminUrl, databases, database)
    const held = connections.get(database) ?? connect(url, { name: "recount" })
    connections.set(database, held)
    return held
  }

  async function isDrained(): Promise<boolean> {
    for (const service of serviceNames) {
      const rows = await (await connection(service)).query("select 1 from outbox limit 1")
      if (rows.length > 0) return false
    }
    const due = await (await connection("orchestrator")).query("select 1 from journal_due limit 1")
    return due.length === 0
  }

  return {
    async drained() {
      const end = Date.now() + drainTimeoutMs
      while (!(await isDrained())) {
        if (Date.now() > end) throw new Error("telemetry did not get everything in time")
        await new Promise((resolve) => setTimeout(resolve, drainPollMs))
      }
    },
    async recount(runs) {
      const missing: Missing[] = []
      for (const check of checks) missing.push(...(await apply(check, runs)))
      return { runs: runs.length, missing }
    },
    async [Symbol.asyncDispose]() {
      for (const held of connections.values()) await (await held)[Symbol.asyncDispose]()
    },
  }

  async function apply(check: Check, runs: readonly AcknowledgedRun[]): Promise<Missing[]> {
    const lacking = new Map<string, string[]>(Object.keys(check.expected).map((what) => [what, []]))
    const held = await connection(check.database)
    for (let at = 0; at < runs.length; at += chunk) {
      const part = runs.slice(at, at + chunk)
      const rows = await held.query<Readonly<Record<string, unknown>>>(check.query, [
        part.map((run) => run.workspaceId),
        part.map((run) => run.runId),
      ])
      const found = new Map(rows.map((row) => [row.run_id, row]))
      for (const { runId } of part) {
        for (const [what, count] of Object.entries(check.expected)) {
          if (found.get(runId)?.[what] !== count) lacking.get(what)?.push(runId)
        }
      }
    }
    return [...lacking].flatMap(([what, ids]) =>
      ids[0] === undefined ? [] : [{ what, runs: ids.length, example: ids[0] }],
    )
  }
}

function asAdmin(
  adminUrl: string,
  databases: BenchDatabases,
  service: (typeof serviceNames)[number],
): string {
  return urlOf(adminUrl, databaseNameOf(databases.services[service]))
}
