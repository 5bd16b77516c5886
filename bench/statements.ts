/** What PostgreSQL did for a profile: its statements, counted by pg_stat_statements. */
import { connect } from "../mesh/database.ts"
import { plainTable } from "./report.ts"

export interface StatementCount {
  readonly database: string
  readonly text: string
  readonly calls: number
  readonly executionMs: number
  readonly rows: number
}

export async function resetStatements(adminUrl: string): Promise<void> {
  await using admin = await connect(adminUrl)
  await admin.query("create extension if not exists pg_stat_statements")
  await admin.query("select pg_stat_statements_reset()")
}

export async function readStatements(adminUrl: string): Promise<readonly StatementCount[]> {
  await using admin = await connect(adminUrl)
  return await admin.query<StatementCount>(
    `select datname as database, regexp_replace(query, '\\s+', ' ', 'g') as text,
       sum(calls)::float8 as calls, sum(total_exec_time) as "executionMs", sum(rows)::float8 as rows
     from pg_stat_statements join pg_database on pg_database.oid = dbid
     group by 1, 2 order by sum(total_exec_time) desc`,
  )
}

export function statementTable(statements: readonly StatementCount[], runs: number): string {
  const table = plainTable(["database", "calls per run", "µs per run", "µs per call", "statement"])
  for (const { database, text, calls, executionMs } of statements.slice(0, 40)) {
    table.push([
      database,
      (calls / runs).toFixed(2),
      ((executionMs * 1_000) / runs).toFixed(0),
      ((executionMs * 1_000) / calls).toFixed(0),
      text.slice(0, 110),
    ])
  }
  return table.toString()
}
