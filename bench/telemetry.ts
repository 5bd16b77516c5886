/**
 * What it costs to take the events of runs in: `node bench/telemetry.ts`. Each run has three moderated
 * calls, so eleven events: six verdicts, three calls that ended, two states of the run. The events of
 * many runs come in calls of BatchRecordEvents over the local transport, as the orchestrator sends
 * them in one process; what decoding them from a socket costs comes on top and has rows of its own.
 * Rounds of all cases alternate; the table shows medians. The yardstick is one row, inserted and
 * committed by itself: on a busy machine all figures grow, and the ratio to it less than they.
 */
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf"
import { timestampFromMs } from "@bufbuild/protobuf/wkt"
import { createValidator } from "@bufbuild/protovalidate"
import { type Event, EventSchema } from "../gen/runwarden/telemetry/v1/event_pb.ts"
import {
  BatchRecordEventsRequestSchema,
  EventService,
  type WorkspaceEvents,
  WorkspaceEventsSchema,
} from "../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { type Connection, connect } from "../mesh/database.ts"
import { actingAs, serviceSubject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import type { Peers } from "../mesh/service.ts"
import { testClient, testRuntime } from "../mesh/testing.ts"
import { telemetryModule } from "../services/telemetry/service.ts"
import { startBenchServer, urlOf } from "./bench-server.ts"
import { costOf, describeMachine } from "./machine.ts"
import { plainTable } from "./report.ts"

interface Case {
  readonly name: string
  readonly runsPerCall: number
  readonly workspaces: number
  /** The calls that one lot of runs is sent in: all at once, or cut in two, or twice. */
  readonly cut: (events: readonly Event[]) => readonly (readonly Event[])[]
}

interface Cost {
  readonly nodeMicros: number
  readonly postgresMicros: number
  readonly transactions: number
  readonly walBytes: number
}

const rounds = 5
const runsPerRound = 4_000
const yardstickRows = 1_000
const whole: Case["cut"] = (events) => [events]

const cases: readonly Case[] = [
  { name: "100 runs of 16 workspaces a call", runsPerCall: 100, workspaces: 16, cut: whole },
  { name: "400 runs of 400 workspaces", runsPerCall: 400, workspaces: 400, cut: whole },
  { name: "10 runs of 10 workspaces", runsPerCall: 10, workspaces: 10, cut: whole },
  {
    name: "100 runs of 16, each in two calls",
    runsPerCall: 100,
    workspaces: 16,
    cut: (events) => [events.slice(0, 5), events.slice(5)],
  },
  {
    name: "100 runs of 16, each sent twice",
    runsPerCall: 100,
    workspaces: 16,
    cut: (events) => [events, events],
  },
]

await using stack = new AsyncDisposableStack()
const server = stack.use(await startBenchServer({ dataFolder: undefined, countsStatements: false }))
const { services } = await server.databases("events")
const admin = stack.use(
  await connect(urlOf(server.adminUrl, new URL(services.telemetry.appUrl).pathname.slice(1))),
)
const runtime = testRuntime("telemetry")
const env = {
  TELEMETRY_DATABASE_URL: services.telemetry.appUrl,
  TELEMETRY_WORKER_DATABASE_URL: services.telemetry.workerUrl,
  TELEMETRY_OWNER_DATABASE_URL: services.telemetry.ownerUrl,
}
const telemetry = stack.use(
  telemetryModule.create(telemetryModule.readConfig(env), runtime, noPeers()),
)
await telemetry.start(AbortSignal.timeout(60_000))
const client = testClient(EventService, { routes: telemetry.routes, runtime }, "orchestrator")

console.log(`${describeMachine()}, PostgreSQL ${server.version}, fsync on`)
const allIds = Array.from({ length: 400 }, newId)
await admin.query("create table yardstick (id uuid primary key, text text)")
const costs = new Map(cases.map((item) => [item, [] as Cost[]]))
const yardstick: Cost[] = []
for (const item of cases) await measure(item, 400)
for (let round = 0; round < rounds; round += 1) {
  for (const item of cases) costs.get(item)?.push(await measure(item, runsPerRound))
  yardstick.push(await measureYardstick())
}
reportCosts()
reportParts()

async function measure(item: Case, runs: number): Promise<Cost> {
  const ids = allIds.slice(0, item.workspaces)
  const before = await readCounters(admin)
  let nodeMicros = 0
  let calls = 0
  const [, { cpuSeconds }] = await costOf({ postgres: server.postmaster }, async () => {
    for (let sent = 0; sent < runs; sent += item.runsPerCall) {
      for (const workspaces of callsOf(item, ids)) {
        // To make events is their sender's expense.
        const start = process.cpuUsage()
        await send(workspaces)
        const { user, system } = process.cpuUsage(start)
        nodeMicros += user + system
        calls += 1
      }
    }
  })
  const after = await readCounters(admin)
  return {
    nodeMicros: nodeMicros / runs,
    postgresMicros: ((cpuSeconds.postgres ?? Number.NaN) * 1e6) / runs,
    transactions: (after.transactions - before.transactions) / calls,
    walBytes: (after.walBytes - before.walBytes) / runs,
  }
}

async function measureYardstick(): Promise<Cost> {
  const { pid: node } = process
  const [, { cpuSeconds }] = await costOf({ node, postgres: server.postmaster }, async () => {
    for (let row = 0; row < yardstickRows; row += 1) {
      await admin.query("insert into yardstick values ($1::uuid, $2::text)", [newId(), "text"])
    }
  })
  const micros = (seconds = Number.NaN) => (seconds * 1e6) / yardstickRows
  return {
    nodeMicros: micros(cpuSeconds.node),
    postgresMicros: micros(cpuSeconds.postgres),
    transactions: 1,
    walBytes: Number.NaN,
  }
}

function send(workspaces: WorkspaceEvents[]) {
  return client.batchRecordEvents({ workspaces }, actingAs(serviceSubject("orchestrator", "")))
}

/** The calls in which one lot of runs is sent. */
function callsOf({ runsPerCall, cut }: Case, ids: readonly string[]): WorkspaceEvents[][] {
  const runs = Array.from({ length: runsPerCall }, () => cut(eventsOfRun()))
  return (runs[0] ?? []).map((_, part) =>
    ids.map((workspaceId, place) => {
      const own = runs.filter((_, index) => index % ids.length === place)
      const events = own.flatMap((run) => run[part] ?? [])
      return create(WorkspaceEventsSchema, { workspaceId, events })
    }),
  )
}

function eventsOfRun(): Event[] {
  const runId = newId()
  const traceId = newId().replaceAll("-", "")
  const startMs = Date.now()
  const tool = "bench/effect.write"
  const payloads: NonNullable<MessageInitShape<typeof EventSchema>["payload"]>[] = [
    { case: "runChanged", value: { state: "running" } },
    ...[0, 1, 2].flatMap((stepIndex) => [
      {
        case: "moderated",
        value: { verdict: "allowed", subject: "tool_arguments", tool },
      } as const,
      {
        case: "toolCallChanged",
        value: { stepIndex, tool, state: "succeeded", executionMillis: 4n },
      } as const,
      { case: "moderated", value: { verdict: "allowed", subject: "tool_result", tool } } as const,
    ]),
    { case: "runChanged", value: { state: "succeeded", elapsedMillis: 30n } },
  ]
  return payloads.map((payload, index) =>
    create(EventSchema, {
      eventId: newId(),
      occurTime: timestampFromMs(startMs + 3 * index),
      runId,
      traceId,
      payload,
    }),
  )
}

function noPeers(): Peers {
  const none = () => {
    throw new Error("telemetry calls nobody")
  }
  return { connect: none, transport: none, transportTo: none }
}

/** What a socket and a general validator would add. */
function reportParts(): void {
  const lot = { name: "", runsPerCall: 400, workspaces: 16, cut: whole }
  const workspaces = callsOf(lot, allIds.slice(0, 16)).flat()
  const request = create(BatchRecordEventsRequestSchema, { workspaces })
  const bytes = toBinary(BatchRecordEventsRequestSchema, request)
  const validator = createValidator()
  const events = workspaces.flatMap((workspace) => workspace.events)
  const table = plainTable(["part, per run", "node µs"])
  const parts: Readonly<Record<string, () => unknown>> = {
    "encoding for a socket": () => toBinary(BatchRecordEventsRequestSchema, request),
    "decoding from it": () => fromBinary(BatchRecordEventsRequestSchema, bytes),
    "protovalidate, which is not asked": () =>
      events.map((event) => validator.validate(EventSchema, event)),
  }
  for (const [name, part] of Object.entries(parts)) {
    for (let warm = 0; warm < 5; warm += 1) part()
    const start = process.cpuUsage()
    for (let turn = 0; turn < 20; turn += 1) part()
    const { user, system } = process.cpuUsage(start)
    table.push([name, ((user + system) / 20 / 400).toFixed(1)])
  }
  console.log(table.toString())
}

function reportCosts(): void {
  const table = plainTable([
    ...["µs of CPU per run", "node", "postgres", "both", "lowest", "of a yardstick"],
    ...["transactions a call", "WAL bytes a run"],
  ])
  const unit = median(yardstick.map(bothOf))
  const rows = [...cases.map((item) => [item.name, costs.get(item) ?? []] as const)]
  for (const [name, found] of [...rows, ["yardstick: one row, committed", yardstick] as const]) {
    const over = (figure: (cost: Cost) => number, digits = 0) =>
      median(found.map(figure)).toFixed(digits)
    table.push([
      name,
      over((cost) => cost.nodeMicros),
      over((cost) => cost.postgresMicros),
      over(bothOf),
      Math.min(...found.map(bothOf)).toFixed(0),
      over((cost) => bothOf(cost) / unit, 2),
      over((cost) => cost.transactions, 2),
      over((cost) => cost.walBytes),
    ])
  }
  console.log(table.toString())
}

function bothOf({ nodeMicros, postgresMicros }: Cost): number {
  return nodeMicros + postgresMicros
}

/** Counters of all sessions, which hand theirs in after a second without work at the latest. */
async function readCounters(connection: Connection) {
  await new Promise((resolve) => setTimeout(resolve, 1_500))
  const [row] = await connection.query<{ transactions: number; walBytes: number }>(
    `select (xact_commit + xact_rollback)::float8 as transactions,
       pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 as "walBytes"
     from pg_stat_database where datname = current_database()`,
  )
  if (row === undefined) throw new Error("PostgreSQL counts no transactions")
  return row
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? Number.NaN
}
