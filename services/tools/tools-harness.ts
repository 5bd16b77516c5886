/** What the tests of this service share: the service on a real database, and scripted providers. */
import { create, type JsonObject, type MessageInitShape } from "@bufbuild/protobuf"
import { createClient, type HandlerContext } from "@connectrpc/connect"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { RegistryService } from "../../gen/runwarden/tools/v1/registry_service_pb.ts"
import {
  Effect,
  RiskClass,
  type ToolDefinition,
  ToolDefinitionSchema,
} from "../../gen/runwarden/tools/v1/tool_pb.ts"
import {
  type ExecuteToolRequest,
  type ExecuteToolResponseSchema,
  type GetOutcomeResponseSchema,
  Outcome,
  ToolProviderService,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { connect } from "../../mesh/database.ts"
import {
  actingAs,
  type CallClaims,
  type Caller,
  callerOf,
  memberSubject,
  type ServiceName,
  type Subject,
} from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { createLocalTransport } from "../../mesh/local-transport.ts"
import { route } from "../../mesh/service.ts"
import { testClient, testDatabase, testRuntime } from "../../mesh/testing.ts"
import { createTools } from "./service.ts"

type Answer = MessageInitShape<typeof ExecuteToolResponseSchema>

/** A provider that does as it is told, and counts. Its effects are keyed as a real one's would be. */
export class FakeProvider {
  tools: ToolDefinition[] = []
  /** Every ExecuteTool that arrived. */
  readonly sendings: { readonly request: ExecuteToolRequest; readonly caller: Caller }[] = []
  /** How often each key took effect. */
  readonly effects = new Map<string, number>()
  /** What ExecuteTool does after its effect; by default it answers. */
  answer: (request: ExecuteToolRequest, context: HandlerContext) => Answer | Promise<Answer> = () =>
    result({ ok: true })
  /** Runs before the effect, and may throw. */
  before: (request: ExecuteToolRequest) => void = () => {}
  outcome: MessageInitShape<typeof GetOutcomeResponseSchema> | Error = { outcome: Outcome.UNKNOWN }
  outcomesAsked = 0
  isAway = false

  route() {
    return route(ToolProviderService, {
      listTools: () => {
        if (this.isAway) throw new Error("away")
        return { tools: this.tools }
      },
      executeTool: async (request, context) => {
        this.sendings.push({ request, caller: callerOf(context) })
        this.before(request)
        const tool = this.tools.find(({ name }) => name === request.tool)
        const done = this.effects.get(request.idempotencyKey) ?? 0
        const isKeyed = tool?.effect === Effect.KEYED
        this.effects.set(request.idempotencyKey, isKeyed ? 1 : done + 1)
        return this.answer(request, context)
      },
      getOutcome: () => {
        this.outcomesAsked++
        if (this.outcome instanceof Error) throw this.outcome
        return this.outcome
      },
    })
  }
}

export function result(value: JsonObject): Answer {
  return { outcome: { case: "result", value } }
}

/** A definition of a tool that takes `{ text, count? }`. */
export function definition(
  name: string,
  changes: MessageInitShape<typeof ToolDefinitionSchema> = {},
): ToolDefinition {
  return create(ToolDefinitionSchema, {
    name,
    version: "1.0.0",
    title: `Tool ${name}`,
    description: "Does as it is told.",
    riskClass: RiskClass.LOW,
    effect: Effect.KEYED,
    inputSchema: {
      type: "object",
      properties: { text: { type: "string", maxLength: 100 }, count: { type: "integer" } },
      required: ["text"],
      additionalProperties: false,
    },
    outputSchema: {
      type: "object",
      properties: { ok: { type: "boolean" }, padding: { type: "string" } },
      required: ["ok"],
    },
    ...changes,
  })
}

export const standardTools = [
  definition("look", { effect: Effect.READ }),
  definition("create", { effect: Effect.KEYED }),
  definition("fire", { effect: Effect.UNSAFE, riskClass: RiskClass.HIGH }),
]

export interface Started extends AsyncDisposable {
  readonly provider: FakeProvider
  readonly second: FakeProvider
  readonly registry: ReturnType<typeof testClient<typeof RegistryService>>
  readonly execution: ReturnType<typeof testClient<typeof ExecutionService>>
  /** Runs a statement as the owner of the database. */
  sql<Row>(text: string): Promise<readonly Row[]>
  /** Another replica on the same database and the same providers. */
  replica(): Promise<Started["execution"]>
}

/** Starts the service with two providers, `projects` and `retrieval`. */
export async function startTools(
  prepare: (provider: FakeProvider, second: FakeProvider) => void = (provider) => {
    provider.tools = [...standardTools]
  },
): Promise<Started> {
  const stack = new AsyncDisposableStack()
  const database = stack.use(await testDatabase("tools", { poolSize: 20 }))
  const owner = stack.use(await connect(database.ownerUrl))
  const provider = new FakeProvider()
  const second = new FakeProvider()
  prepare(provider, second)
  const offers = new Map([
    ["projects", provider],
    ["retrieval", second],
  ])

  async function start() {
    const runtime = testRuntime("tools")
    const config = {
      database,
      providers: [...offers.keys()].map((name) => ({ name, address: "local:1" })),
      refreshMs: 200,
      maxResultBytes: 4_096,
      execution: { maxAttempts: 3, retryBaseMs: 10, probeTimeoutMs: 200, leaseMarginMs: 100 },
    }
    const service = stack.use(
      createTools(config, {
        runtime,
        provider: ({ name }) => {
          const fake = offers.get(name) ?? new FakeProvider()
          const target = { routes: [fake.route()], runtime: testRuntime(name as ServiceName) }
          return createClient(
            ToolProviderService,
            createLocalTransport(target, runtime, { freeze: true }),
          )
        },
      }),
    )
    await service.start(AbortSignal.timeout(60_000))
    return { routes: service.routes, runtime }
  }

  const target = await start()
  return {
    provider,
    second,
    registry: testClient(RegistryService, target),
    execution: testClient(ExecutionService, target, "orchestrator"),
    sql: (text) => owner.query(text),
    replica: async () => testClient(ExecutionService, await start(), "orchestrator"),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

/** A member of a workspace of its own, unless one is given. */
export function someone(workspaceId: string = newId()): Subject {
  return memberSubject(workspaceId, newId(), Role.MEMBER)
}

/** One admitted call, as the orchestrator would make it. */
export interface TestCall {
  readonly subject: Subject
  readonly request: {
    readonly workspaceId: string
    readonly runId: string
    readonly stepIndex: number
    readonly idempotencyKey: string
    readonly tool: string
    readonly definitionDigest: string
    readonly arguments: JsonObject
    readonly argumentsDigest: string
    readonly epoch: bigint
  }
}

/** Pins a tool by name and makes a call of it. */
export async function callOf(
  { execution }: Pick<Started, "execution">,
  name: string,
  args: JsonObject = { text: "hello" },
  subject: Subject = someone(),
): Promise<TestCall> {
  const { tool } = await execution.resolveTool(
    { workspaceId: subject.workspaceId, name },
    actingAs(subject),
  )
  const runId = newId()
  return {
    subject,
    request: {
      workspaceId: subject.workspaceId,
      runId,
      stepIndex: 0,
      idempotencyKey: `${runId}/0`,
      tool: tool?.fullName ?? "",
      definitionDigest: tool?.definitionDigest ?? "",
      arguments: args,
      argumentsDigest: digestOfStruct(args),
      epoch: 1n,
    },
  }
}

/** Sends a call with a token that names it, or names something else. */
export function execute(
  { execution }: Pick<Started, "execution">,
  { subject, request }: TestCall,
  options: { readonly timeoutMs?: number; readonly claims?: Partial<CallClaims> } = {},
) {
  const call = {
    runId: request.runId,
    stepIndex: request.stepIndex,
    digest: request.argumentsDigest,
    ...options.claims,
  }
  const { timeoutMs = 5_000 } = options
  return execution.execute(request, actingAs(subject, { timeoutMs, call }))
}
