/**
 * What the tools service itself costs: `node bench/tools.ts`. It executes small keyed calls of a
 * provider in the same process that answers at once, with its ledger on a PostgreSQL with fsync on.
 * In turns with a stand-in that does nothing but call the provider: the difference is the service,
 * without the transports on either side of it.
 */
import { randomUUID } from "node:crypto"
import { create } from "@bufbuild/protobuf"
import { type Client, createClient } from "@connectrpc/connect"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { ExecutionSchema, ExecutionState } from "../gen/runwarden/tools/v1/execution_pb.ts"
import { ExecutionService } from "../gen/runwarden/tools/v1/execution_service_pb.ts"
import { ToolProviderService } from "../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { digestOfStruct } from "../mesh/canonical.ts"
import { definition } from "../mesh/fixtures/fake-provider.ts"
import { actingAs, callerOf, memberSubject } from "../mesh/identity.ts"
import { createLocalTransport } from "../mesh/local-transport.ts"
import { type Handlers, type Route, route } from "../mesh/service.ts"
import { testClient, testRuntime, until } from "../mesh/testing.ts"
import { createTools } from "../services/tools/service.ts"
import { startBenchServer } from "./bench-server.ts"
import { closedLoop, median } from "./closed-loop.ts"
import { costOf, describeMachine } from "./machine.ts"
import { plainTable } from "./report.ts"

interface Round {
  readonly perSecond: number
  readonly p50: number
  readonly nodeMicros: number
  readonly postgresMicros: number
}

const rounds = 5
const ms = 2_000
const members = Array.from({ length: 16 }, () =>
  memberSubject(randomUUID(), randomUUID(), Role.MEMBER),
)
const tool = definition("write")
const answer = { outcome: { case: "result", value: { ok: true } } } as const

await using stack = new AsyncDisposableStack()
const server = stack.use(await startBenchServer({ dataFolder: undefined, countsStatements: false }))
const { tools: database } = (await server.databases("tools")).services
const runtime = testRuntime("tools")
const provider = createClient(
  ToolProviderService,
  createLocalTransport(
    {
      routes: [route(ToolProviderService, providerOf())],
      runtime: testRuntime("projects"),
    },
    runtime,
  ),
)
const service = stack.use(
  createTools(
    {
      database,
      providers: [{ name: "projects", address: "local:1" }],
      mcpServers: [],
      workspaceProviders: {
        keyring: undefined,
        origins: [],
        commands: new Map(),
        maxPerWorkspace: 0,
      },
      refreshMs: 600_000,
      execution: { leaseMs: 10_000, probeTimeoutMs: 1_000, maxResultBytes: 262_144 },
    },
    { runtime, provider: () => provider },
  ),
)
await service.start(AbortSignal.timeout(60_000))
const real = clientOf(service.routes)
const bare = clientOf([route(ExecutionService, standIn() as Handlers<typeof ExecutionService>)])
const pinned = await until(async () => {
  const [subject] = members
  if (subject === undefined) return undefined
  const { workspaceId } = subject
  const steps = [{ tool: "write" }]
  const plan = real.resolvePlan({ workspaceId, steps }, actingAs(subject))
  return plan.then(({ tools: [one] }) => one).catch(() => undefined)
})

process.stdout.write(`${describeMachine()}, PostgreSQL ${server.version}\n`)
await loop(real, 64)
await loop(bare, 64)
const table = plainTable([
  ...["clients", "calls/s", "p50 ms", "Node µs a call", "of it the service", "Postgres µs"],
  "transactions",
])
for (const clients of [1, 16, 64]) table.push(await point(clients))
table.push(await planPoint())
process.stdout.write(`${table.toString()}\n`)

async function point(clients: number): Promise<string[]> {
  const measured: Round[] = []
  const alone: Round[] = []
  const before = await server.transactions()
  let calls = 0
  for (let n = 0; n < rounds; n++) {
    const { round, count } = await loop(real, clients)
    measured.push(round)
    calls += count
    alone.push((await loop(bare, clients)).round)
  }
  const transactions = ((await server.transactions()) - before) / calls
  const of = (list: readonly Round[], figure: (round: Round) => number) => median(list.map(figure))
  const node = of(measured, (round) => round.nodeMicros)
  return [
    String(clients),
    of(measured, (round) => round.perSecond).toFixed(0),
    of(measured, (round) => round.p50).toFixed(2),
    node.toFixed(1),
    (node - of(alone, (round) => round.nodeMicros)).toFixed(1),
    of(measured, (round) => round.postgresMicros).toFixed(1),
    transactions.toFixed(3),
  ]
}

/** A plan of three steps, resolved from memory. */
async function planPoint(): Promise<string[]> {
  const steps = [0, 1, 2].map(() => ({ tool: "projects/write", arguments: { text: "hello" } }))
  const call = (client: Client<typeof ExecutionService>) => async () => {
    const [subject] = members
    if (subject === undefined) throw new Error("nobody to call as")
    const { workspaceId } = subject
    await client.resolvePlan({ workspaceId, steps }, actingAs(subject))
  }
  const own = [await measure(call(real), 16), await measure(call(real), 16)]
  const alone = [await measure(call(bare), 16), await measure(call(bare), 16)]
  const of = (list: typeof own) => median(list.map(({ round }) => round.nodeMicros))
  const perSecond = median(own.map(({ round }) => round.perSecond))
  return [
    "ResolvePlan, three steps",
    perSecond.toFixed(0),
    "",
    of(own).toFixed(1),
    (of(own) - of(alone)).toFixed(1),
    "",
    "",
  ]
}

function loop(client: Client<typeof ExecutionService>, clients: number) {
  let n = 0
  return measure(async () => {
    const subject = members[n % members.length]
    if (subject === undefined || pinned === undefined) throw new Error("nothing to call")
    const runId = randomUUID()
    const args = { text: `note ${++n} of ${runId}`, count: n }
    const digest = digestOfStruct(args)
    const request = {
      workspaceId: subject.workspaceId,
      runId,
      stepIndex: 0,
      idempotencyKey: `${runId}/0`,
      tool: pinned.fullName,
      definitionDigest: pinned.definitionDigest,
      arguments: args,
      argumentsDigest: digest,
      epoch: 1n,
    }
    const call = { runId, stepIndex: 0, digest }
    const { execution } = await client.execute(
      request,
      actingAs(subject, { timeoutMs: 30_000, call }),
    )
    if (execution?.state !== ExecutionState.SUCCEEDED) throw new Error("not executed")
  }, clients)
}

async function measure(
  call: () => Promise<void>,
  clients: number,
): Promise<{ readonly round: Round; readonly count: number }> {
  const named = { postgres: server.postmaster }
  const start = process.cpuUsage()
  const [figures, cost] = await costOf(named, () => closedLoop({ clients, ms }, call))
  const { user, system } = process.cpuUsage(start)
  const { runs: count, runsPerSecond: perSecond, p50 } = figures
  const nodeMicros = (user + system) / count
  const postgresMicros = ((cost.cpuSeconds.postgres ?? Number.NaN) * 1e6) / count
  return { round: { perSecond, p50, nodeMicros, postgresMicros }, count }
}

function providerOf(): Handlers<typeof ToolProviderService> {
  return {
    listTools: () => ({ tools: [tool] }),
    executeTool: () => answer,
    getOutcome: () => ({}),
  }
}

/** An execution service that sends and does nothing else. */
function standIn(): Partial<Handlers<typeof ExecutionService>> {
  const execution = create(ExecutionSchema, {
    state: ExecutionState.SUCCEEDED,
    outcome: answer.outcome,
  })
  const unused = () => ({})
  return {
    ...Object.fromEntries(ExecutionService.methods.map(({ localName }) => [localName, unused])),
    async execute(request, context) {
      const { issuer: _, call: __, ...subject } = callerOf(context)
      const { workspaceId, idempotencyKey, runId, arguments: args = {} } = request
      const options = actingAs(subject, { timeoutMs: 1_000, signal: new AbortController().signal })
      await provider.executeTool(
        { workspaceId, tool: "write", version: "1.0.0", idempotencyKey, arguments: args, runId },
        options,
      )
      return { execution }
    },
  }
}

function clientOf(routes: readonly Route[]): Client<typeof ExecutionService> {
  return testClient(ExecutionService, { routes, runtime }, "orchestrator")
}
