/** What the tests of this service share: the service on a real database, and scripted providers. */
import type { JsonObject } from "@bufbuild/protobuf"
import { createClient } from "@connectrpc/connect"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { LedgerService } from "../../gen/runwarden/tools/v1/ledger_service_pb.ts"
import { ProviderService } from "../../gen/runwarden/tools/v1/provider_service_pb.ts"
import { RegistryService } from "../../gen/runwarden/tools/v1/registry_service_pb.ts"
import { Effect, RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { connect } from "../../mesh/database.ts"
import { definition, FakeProvider } from "../../mesh/fixtures/fake-provider.ts"
import {
  actingAs,
  type CallClaims,
  memberSubject,
  type ServiceName,
  type Subject,
} from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { createLocalTransport } from "../../mesh/local-transport.ts"
import type { Runtime } from "../../mesh/service.ts"
import { testClient, testDatabase, testRuntime } from "../../mesh/testing.ts"
import type { ToolsConfig } from "./config.ts"
import type { McpServer } from "./mcp/servers.ts"
import { createTools } from "./service.ts"

export const standardTools = [
  definition("look", { effect: Effect.READ }),
  definition("create", { effect: Effect.KEYED }),
  definition("fire", { effect: Effect.UNSAFE, riskClass: RiskClass.HIGH }),
]

/** Nothing that workspaces may add. */
export const noWorkspaceProviders: ToolsConfig["workspaceProviders"] = {
  keyring: undefined,
  origins: [],
  commands: new Map(),
  maxPerWorkspace: 20,
}

export interface StartOptions {
  readonly workspaceProviders?: ToolsConfig["workspaceProviders"]
  readonly runtime?: Runtime
  /** One that another service has used. */
  readonly database?: ToolsConfig["database"]
}

export interface Started extends AsyncDisposable {
  readonly database: ToolsConfig["database"]
  readonly provider: FakeProvider
  readonly second: FakeProvider
  readonly registry: ReturnType<typeof testClient<typeof RegistryService>>
  readonly providers: ReturnType<typeof testClient<typeof ProviderService>>
  readonly execution: ReturnType<typeof testClient<typeof ExecutionService>>
  readonly ledger: ReturnType<typeof testClient<typeof LedgerService>>
  /** Runs a statement as the owner of the tables, who sees no row of any workspace. */
  sql<Row>(text: string): Promise<readonly Row[]>
  /** Runs a statement on the rows of a workspace, as somebody may who has the database. */
  asWorker(workspaceId: string, text: string): Promise<void>
  /** The ledger's row of a call. */
  rowOf(call: TestCall): Promise<TestRow | undefined>
  /** Ends the lease of a call as if its sender had vanished long ago. */
  expire(call: TestCall): Promise<void>
  /** Another replica on the same database and the same providers. */
  replica(): Promise<Started["execution"]>
}

/** A row of the ledger as a test sees it. */
export interface TestRow {
  readonly state: string
  readonly attempts: number
  readonly maybe_applied: boolean
  /** Whether it was given back. */
  readonly is_open: boolean
  /** How long its lease lasts. */
  readonly left_ms: number
}

/** Starts the service with two providers, `projects` and `retrieval`. */
export async function startTools(
  prepare: (provider: FakeProvider, second: FakeProvider) => void = (provider) => {
    provider.tools = [...standardTools]
  },
  leaseMs = 10_000,
  mcpServers: readonly McpServer[] = [],
  more: StartOptions = {},
): Promise<Started> {
  const { workspaceProviders = noWorkspaceProviders } = more
  const stack = new AsyncDisposableStack()
  const database = more.database ?? stack.use(await testDatabase("tools", { poolSize: 20 }))
  const owner = stack.use(await connect(database.ownerUrl ?? ""))
  const worker = stack.use(await connect(database.workerUrl))
  let last: Promise<unknown> = Promise.resolve()
  const inLedger = <Row>({ request }: TestCall, text: string): Promise<readonly Row[]> => {
    const { workspaceId, idempotencyKey } = request
    const rows = last.then(async () => {
      await worker.query(`set runwarden.workspace_ids = '{${workspaceId}}'`)
      return worker.query<Row>(`${text} where idempotency_key = $1`, [idempotencyKey])
    })
    last = rows.catch(() => {})
    return rows
  }
  const provider = new FakeProvider()
  const second = new FakeProvider()
  prepare(provider, second)
  const offers = new Map([
    ["projects", provider],
    ["retrieval", second],
  ])

  async function start() {
    const runtime = more.runtime ?? testRuntime("tools")
    const config = {
      database,
      providers: [...offers.keys()].map((name) => ({ name, address: "local:1" })),
      mcpServers,
      refreshMs: 200,
      workspaceProviders,
      execution: {
        leaseMs,
        probeTimeoutMs: 200,
        maxResultBytes: mcpServers.length === 0 ? 4_096 : 65_536,
      },
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
    providers: testClient(ProviderService, target),
    execution: testClient(ExecutionService, target, "orchestrator"),
    ledger: testClient(LedgerService, target, "orchestrator"),
    database,
    sql: (text) => owner.query(text),
    async asWorker(workspaceId, text) {
      await using own = await connect(database.workerUrl)
      await own.query(`set runwarden.workspace_ids = '{${workspaceId}}'`)
      await own.query(text)
    },
    async rowOf(call) {
      const [row] = await inLedger<TestRow>(
        call,
        `select state, attempts, maybe_applied,
           state = 'in_flight' and lease_until is null as is_open,
           extract(epoch from lease_until - clock_timestamp())::float8 * 1000 as left_ms
         from executions`,
      )
      return row
    },
    async expire(call) {
      await inLedger(call, "update executions set lease_until = now() - interval '1 hour'")
    },
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
  const { timeoutMs = 20_000 } = options
  return execution.execute(request, actingAs(subject, { timeoutMs, call }))
}
