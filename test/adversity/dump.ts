/** Reads the world, as the database's superuser: row-level security hides nothing from it. */
import { fromBinary, type JsonObject } from "@bufbuild/protobuf"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ListRunEventsResponseSchema } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { MetricsService } from "../../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { type Connection, connect } from "../../mesh/database.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import type { Cluster } from "./cluster.ts"
import type { History } from "./history.ts"
import { readLedger } from "./ledger-file.ts"
import type { TestWorkspace } from "./test-workspace.ts"
import type {
  ApprovalRow,
  Belonging,
  CallRow,
  ClaimRow,
  Counts,
  EventRow,
  ExecutionRow,
  JournalHead,
  JournalRow,
  RunRow,
  World,
} from "./world.ts"

const databases = ["orchestrator", "tools", "telemetry", "moderation"] as const

/** The world of these workspaces. */
export async function readWorld(
  cluster: Cluster,
  history: History,
  workspaces: readonly TestWorkspace[],
): Promise<World> {
  const ids = workspaces.map(({ workspaceId }) => workspaceId)
  const known = new Set(ids)
  await using orchestrator = await open(cluster, "orchestrator")
  // One moment of it, however much goes on meanwhile.
  await orchestrator.query("begin transaction isolation level repeatable read")
  await using tools = await open(cluster, "tools")
  const [clock] = await orchestrator.query<{ now: number }>(
    "select extract(epoch from clock_timestamp()) * 1000 as now",
  )
  const belongings: Belonging[] = []
  for (const name of databases) {
    await using database = await open(cluster, name)
    belongings.push(...(await readBelongings(database, name, ids)))
  }
  const counts = new Map<string, Counts>()
  for (const workspace of workspaces) {
    counts.set(workspace.workspaceId, await readCounts(cluster, workspace))
  }
  const stored = await orchestrator.query<StoredJournalRow>(journalSql, [ids])
  const journal = stored.map((row) => ({ ...row, createMicros: BigInt(row.createMicros) }))
  return {
    history: history.entries.filter((entry) => known.has(entry.workspaceId)),
    now: Number(clock?.now),
    runs: await orchestrator.query<RunRow>(runsSql, [ids]),
    calls: (await orchestrator.query<StoredCall>(callsSql, [ids])).map(toCall),
    approvals: (await orchestrator.query<StoredApproval>(approvalsSql, [ids])).map(toApproval),
    claims: await orchestrator.query<ClaimRow>(claimsSql, [ids]),
    executions: await tools.query<ExecutionRow>(executionsSql, [ids]),
    journal,
    heads: await orchestrator.query<JournalHead>(headsSql, [ids]),
    events: journal.flatMap(toEvents),
    belongings,
    ledger: readLedger(cluster.ledgerFile).filter((line) => known.has(line.workspaceId)),
    counts,
  }
}

/** The superuser's connection to a service's database. */
export function open(cluster: Cluster, service: string): Promise<Connection> {
  return connect(cluster.postgres.adminUrl, { name: "adversity", database: service })
}

export async function readCounts(
  cluster: Cluster,
  { workspaceId, memberId }: TestWorkspace,
): Promise<Counts> {
  const { metrics } = await cluster
    .client(MetricsService, "telemetry")
    .getMetrics(
      { workspaceId, windowSeconds: 2_678_400 },
      actingAs(memberSubject(workspaceId, memberId, Role.MEMBER)),
    )
  return {
    runs: metrics?.runsByState ?? {},
    calls: metrics?.toolCallsByState ?? {},
    approvals: metrics?.approvalsByState ?? {},
    moderated: metrics?.moderationCount ?? 0,
  }
}

/** Every pair of workspace and run that any table holds. */
async function readBelongings(
  database: Connection,
  name: string,
  ids: readonly string[],
): Promise<readonly Belonging[]> {
  const tables = await database.query<{ table_name: string }>(
    `select c.table_name from information_schema.columns c
     join information_schema.tables t using (table_schema, table_name)
     where c.table_schema = 'public' and t.table_type = 'BASE TABLE'
       and c.column_name in ('workspace_id', 'run_id')
     group by c.table_name having count(*) = 2`,
  )
  const found: Belonging[] = []
  for (const { table_name: table } of tables) {
    found.push(
      ...(await database.query<Belonging>(
        `select distinct '${name}.${table}' as table, workspace_id::text as "workspaceId",
           run_id::text as "runId"
         from "${table}" where run_id is not null and run_id::text <> ''
           and (workspace_id = any ($1::uuid[]) or run_id::text in (
             select run_id::text from "${table}" where workspace_id = any ($1::uuid[])))`,
        [ids],
      )),
    )
  }
  return found
}

const ofThese = "workspace_id = any ($1::uuid[])"
const ms = (column: string) => `(extract(epoch from ${column}) * 1000)::double precision`

const runsSql = `
  select workspace_id as "workspaceId", run_id as "runId", request_id as "requestId", state, reason,
    step_count as "stepCount", requester_id as "requesterId", ${ms("deadline")} as deadline,
    end_time is not null as "isEnded"
  from runs where ${ofThese}`

const callsSql = `
  select workspace_id as "workspaceId", run_id as "runId", step_index as "stepIndex",
    idempotency_key as key, tool, risk_class as "riskClass", state, reason,
    coalesce(arguments_digest, '') as "argumentsDigest",
    coalesce(approval_digest, '') as "approvalDigest", result, error
  from tool_calls where ${ofThese}`

const approvalsSql = `
  select workspace_id as "workspaceId", approval_id as "approvalId", run_id as "runId",
    step_index as "stepIndex", state, digest, (binding::json -> 'arguments')::text as arguments,
    requester_id as "requesterId",
    decider_id as "deciderId", distinct_from_requester as "isDistinct",
    ${ms("expire_time")} as "expireTime", ${ms("decide_time")} as "decideTime",
    ${ms("consume_time")} as "consumeTime"
  from approvals where ${ofThese}`

const claimsSql = `
  select workspace_id as "workspaceId", run_id as "runId", owner is not null as "isOwned",
    ${ms("due_time")} as "dueTime"
  from run_claims where ${ofThese}`

const executionsSql = `
  select workspace_id as "workspaceId", run_id as "runId", step_index as "stepIndex",
    idempotency_key as key, state, attempts, coalesce(result ->> 'next', '') as next
  from executions where ${ofThese}`

const journalSql = `
  select workspace_id as "workspaceId", position, run_id as "runId",
    first_sequence as "firstSequence", entry_count as "entryCount",
    (extract(epoch from create_time) * 1000000)::bigint::text as "createMicros", entries,
    encode(hash, 'hex') as hash
  from journal where ${ofThese} order by workspace_id, position`

const headsSql = `
  select workspace_id as "workspaceId", position, encode(hash, 'hex') as hash
  from journal_heads where ${ofThese}`

type StoredJournalRow = Omit<JournalRow, "createMicros"> & { readonly createMicros: string }

type StoredCall = Omit<CallRow, "next" | "applied"> & {
  readonly result: string | null
  readonly error: string | null
}

function toCall({ result, error, ...row }: StoredCall): CallRow {
  const value = JSON.parse(result ?? "{}") as { readonly next?: string }
  const failure = JSON.parse(error ?? "{}") as { readonly metadata?: Record<string, string> }
  return { ...row, next: value.next ?? "", applied: failure.metadata?.applied ?? "" }
}

type StoredApproval = Omit<ApprovalRow, "argumentsDigest" | "decideTime" | "consumeTime"> & {
  readonly arguments: string
  readonly decideTime: number | null
  readonly consumeTime: number | null
}

function toApproval({ arguments: shown, decideTime, consumeTime, ...row }: StoredApproval) {
  return {
    ...row,
    argumentsDigest: digestOfStruct(JSON.parse(shown) as JsonObject),
    decideTime: decideTime ?? undefined,
    consumeTime: consumeTime ?? undefined,
  }
}

function toEvents({ workspaceId, runId, firstSequence, entries }: JournalRow): EventRow[] {
  const { events } = fromBinary(ListRunEventsResponseSchema, entries)
  return events.map(({ kind }, index) => ({
    ...{ workspaceId, runId, sequence: firstSequence + index, kind },
  }))
}
