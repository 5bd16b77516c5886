/**
 * What one decision costs inside the moderation service, everything but the transport:
 * `node bench/moderation.ts`. Calls its handler as a transport would, on a PostgreSQL of its own with
 * fsync on, with arguments that differ in every call, over 16 workspaces. Between two decisions of a
 * client lies a turn of the event loop, as there does where calls come over a transport.
 */
import { setImmediate as turn } from "node:timers/promises"
import type { JsonObject } from "@bufbuild/protobuf"
import { createContextValues } from "@connectrpc/connect"
import Table from "cli-table3"
import { Subject } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { ModerationService } from "../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { Effect, RiskClass } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { callerKey, memberSubject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { testRuntime } from "../mesh/testing.ts"
import { createModeration } from "../services/moderation/service.ts"
import { startBenchServer } from "./bench-server.ts"
import { closedLoop, median } from "./closed-loop.ts"
import { costOf, describeMachine } from "./machine.ts"

/** The handler, without what a transport does before and after it. */
interface Handlers {
  moderate(request: object, context: object): Promise<unknown>
}

interface Case {
  readonly name: string
  readonly clients: number
  readonly content: (index: number) => JsonObject
  /** Absent where the request is made and not judged: what the loop itself costs. */
  readonly riskClass: RiskClass | undefined
}

interface Figures {
  readonly perSecond: number
  readonly p50: number
  readonly p99: number
  readonly nodeMicros: number
  readonly postgresMicros: number
}

const rounds = 3
const roundMs = 2_000
const warmUpMs = 2_000
const workspaces = Array.from({ length: 16 }, newId)
const words =
  "the quarterly report lists every open invoice by customer and by age so that the team sees which of them need a reminder".split(
    " ",
  )
const longTexts = Array.from({ length: 64 }, (_, variant) =>
  Array.from({ length: 330 }, (_, at) => words[(variant + at * at) % words.length]).join(" "),
)

const sizes = { "150 B": small, "2 KB": large }
const storing = {
  "not judged": undefined,
  "stored behind": RiskClass.LOW,
  "stored first": RiskClass.HIGH,
}
const cases: readonly Case[] = Object.entries(sizes).flatMap(([size, content]) =>
  Object.entries(storing).flatMap(([when, riskClass]) =>
    [64, 1].map((clients) => ({ name: `${size}, ${when}`, clients, riskClass, content })),
  ),
)

await using stack = new AsyncDisposableStack()
const server = stack.use(await startBenchServer({ dataFolder: undefined, countsStatements: false }))
const { services } = await server.databases("bench")
const config = { database: services.moderation, evaluationLimitMs: 2_000 }
const service = stack.use(createModeration(config, { runtime: testRuntime("moderation") }))
await service.start(new AbortController().signal)
const [handlers] = service.routes
  .filter((route) => route.service === ModerationService)
  .map(({ implementation }) => implementation as unknown as Handlers)
const { signal } = new AbortController()
const contexts = workspaces.map((workspaceId) => {
  const subject = memberSubject(workspaceId, newId(), Role.MEMBER)
  const caller = { ...subject, issuer: "orchestrator" } as const
  return { signal, values: createContextValues().set(callerKey, caller) }
})
let made = 0

const found = new Map(cases.map((item) => [item, [] as Figures[]]))
for (const item of cases) await measure(item, warmUpMs)
for (let round = 0; round < rounds; round += 1) {
  for (const item of cases) found.get(item)?.push(await measure(item, roundMs))
}
report()

async function measure(item: Case, ms: number): Promise<Figures> {
  const named = { node: process.pid, postgres: server.postmaster }
  const [loop, cost] = await costOf(named, () =>
    closedLoop({ clients: item.clients, ms }, async () => {
      await decide(item)
      await turn()
    }),
  )
  const micros = (name: keyof typeof named) => ((cost.cpuSeconds[name] ?? 0) / loop.runs) * 1e6
  return {
    perSecond: loop.runsPerSecond,
    p50: loop.p50,
    p99: loop.p99,
    nodeMicros: micros("node"),
    postgresMicros: micros("postgres"),
  }
}

async function decide({ riskClass, content }: Case): Promise<void> {
  made += 1
  const place = made % workspaces.length
  const request = {
    workspaceId: workspaces[place],
    subject: Subject.TOOL_ARGUMENTS,
    content: content(made),
    runId: newId(),
    stepIndex: made % 3,
    tool: "bench/effect.write",
    riskClass,
    effect: Effect.KEYED,
    provenance: [],
    history: [],
  }
  if (riskClass === undefined) return
  await handlers?.moderate(request, contexts[place] ?? {})
}

function small(index: number): JsonObject {
  return {
    account: `acct-${index % 1_000}-${index}`,
    title: `Invoice ${index} for the quarter ${index % 4}`,
    amount: index * 3 + 0.5,
    note: `paid by transfer, see line ${index}`,
    tags: ["finance"],
  }
}

function large(index: number): JsonObject {
  const text = longTexts[index % longTexts.length]
  return { title: `Report ${index}`, format: "text/plain", content: `${text} ${index}` }
}

function report(): void {
  console.log(`${describeMachine()}, PostgreSQL ${server.version}, medians of ${rounds} rounds`)
  for (const [size, content] of Object.entries(sizes)) {
    console.log(`${size}: ${JSON.stringify(content(12_345)).length} bytes`)
  }
  const head = ["decision", "clients", "per second", "p50 ms", "p99 ms", "Node µs", "PostgreSQL µs"]
  const table = new Table({ head })
  for (const [{ name, clients }, all] of found) {
    const middle = (key: keyof Figures) => median(all.map((figures) => figures[key]))
    table.push([
      name,
      clients,
      middle("perSecond").toFixed(0),
      middle("p50").toFixed(3),
      middle("p99").toFixed(3),
      middle("nodeMicros").toFixed(1),
      middle("postgresMicros").toFixed(1),
    ])
  }
  console.log(table.toString())
}
