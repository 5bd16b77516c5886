/**
 * The services of a deployment, each a supervised process: two orchestrators and two tools
 * services, gateway, moderation, telemetry, and one provider, the ledger tool unless told otherwise.
 *
 * The second orchestrator and the second tools service stand behind proxies: what they say to
 * PostgreSQL and to each other's kind can be cut, swallowed and slowed down.
 */
import { createHash, randomBytes } from "node:crypto"
import { mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import type { DescService } from "@bufbuild/protobuf"
import type { Client } from "@connectrpc/connect"
import { Health, HealthCheckResponse_ServingStatus } from "../../gen/grpc/health/v1/health_pb.ts"
import { createMeshClient } from "../../mesh/client.ts"
import type { DatabaseConfig } from "../../mesh/database.ts"
import { provisionDatabases } from "../../mesh/embedded-postgres.ts"
import { createGrpcTransport } from "../../mesh/grpc-client.ts"
import { actingAs, serviceSubject } from "../../mesh/identity.ts"
import { encodePrivateKey, encodeTrustedKeys } from "../../mesh/keys.ts"
import { derivedPasswords } from "../../mesh/provision-databases.ts"
import { testKeys, testRuntime } from "../../mesh/testing.ts"
import { type BouncingPostgres, startBouncingPostgres } from "./bouncing-postgres.ts"
import type { MutationName } from "./mutations.ts"
import { type ProcessSpec, SupervisedProcess } from "./supervised-process.ts"
import { startTcpProxy, type TcpProxy } from "./tcp-proxy.ts"

const services = ["gateway", "orchestrator", "tools", "moderation", "telemetry"] as const

type ClusterService = (typeof services)[number]

export interface ClusterOptions {
  readonly isDurable: boolean
  /** Whether leases are as long as in production; short ones unless told otherwise. */
  readonly hasDefaultTimes?: boolean
  /** Guards to take out, by service. */
  readonly mutations?: Partial<Record<ClusterService, readonly MutationName[]>>
  /** The provider in the place of the ledger tool, which listens there and may keep data there. */
  readonly provider?: (listen: string, adminUrl: string) => Promise<ProcessSpec>
}

export interface Cluster extends AsyncDisposable {
  readonly postgres: BouncingPostgres
  readonly databases: Readonly<Record<ClusterService, DatabaseConfig>>
  readonly orchestrators: readonly [SupervisedProcess, SupervisedProcess]
  readonly tools: readonly [SupervisedProcess, SupervisedProcess]
  readonly provider: SupervisedProcess
  readonly others: readonly SupervisedProcess[]
  /** Between the second replicas and what they depend on. */
  readonly proxies: {
    readonly orchestratorToTools: TcpProxy
    readonly orchestratorToDatabase: TcpProxy
    readonly toolsToDatabase: TcpProxy
    readonly orchestratorToTelemetry: TcpProxy
  }
  readonly ledgerFile: string
  readonly edgeUrl: string
  readonly operatorKey: string
  /** A client of both replicas, as the gateway has it unless another service calls. */
  client<S extends DescService>(
    service: S,
    peer: ClusterService,
    as?: "gateway" | "orchestrator",
  ): Client<S>
}

/** What is short in tests, so that recoveries take seconds, not minutes. */
export const leaseMs = 1_500
const shortTimes = {
  ORCHESTRATOR_LEASE_MS: String(leaseMs),
  ORCHESTRATOR_POLL_MS: "200",
  ORCHESTRATOR_EXECUTE_TIMEOUT_MS: "2000",
  ORCHESTRATOR_SETTLE_MS: "2500",
  TOOLS_PROBE_TIMEOUT_MS: "500",
  TOOLS_LEASE_MS: String(leaseMs),
}

/** Starts everything; resolves when all of it serves. */
export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  await using stack = new AsyncDisposableStack()
  const folder = mkdtempSync(join(tmpdir(), "runwarden-ledger-"))
  stack.defer(() => rmSync(folder, { recursive: true, force: true }))
  const ledgerFile = join(folder, "ledger.jsonl")
  const postgres = stack.use(await startBouncingPostgres(options))
  const databases = await provisionDatabases(postgres.adminUrl, services, {
    passwordOf: derivedPasswords("adversity"),
  })
  const ports = await freePorts(9)
  const at = (index: number) => `127.0.0.1:${ports[index]}`
  const [gateway, edge, moderation, telemetry, provides] = [at(0), at(1), at(2), at(3), at(4)]
  const orchestratorAt = [at(5), at(6)] as const
  const toolsAt = [at(7), at(8)] as const

  const proxyTo = async (port: number | undefined) =>
    stack.use(await startTcpProxy({ port: port ?? 0 }))
  const proxies = {
    orchestratorToTools: await proxyTo(ports[7]),
    orchestratorToDatabase: await proxyTo(postgres.port),
    toolsToDatabase: await proxyTo(postgres.port),
    orchestratorToTelemetry: await proxyTo(ports[3]),
  }

  const offered: ProcessSpec = (await options.provider?.(provides, postgres.adminUrl)) ?? {
    name: "ledger",
    script: "ledger-process.ts",
    args: [provides, ledgerFile],
    env: {},
    isSuicidal: true,
  }

  const operatorKey = `operator-${randomBytes(32).toString("base64url")}`
  const shared = {
    RUNWARDEN_TRUSTED_KEYS: encodeTrustedKeys(testKeys.trusted),
    RUNWARDEN_LOG_LEVEL: "error",
    NODE_COMPILE_CACHE: join(tmpdir(), "runwarden-compile-cache"),
    GATEWAY_ADDRESS: gateway ?? "",
    MODERATION_ADDRESS: moderation ?? "",
    TELEMETRY_ADDRESS: telemetry ?? "",
    ORCHESTRATOR_ADDRESS: `ipv4:${orchestratorAt.join(",")}`,
    TOOLS_ADDRESS: `ipv4:${toolsAt.join(",")}`,
    TOOLS_PROVIDERS: `${offered.name}=${provides}`,
    TOOLS_REFRESH_MS: "2000",
    GATEWAY_LISTEN: edge ?? "",
    GATEWAY_OPERATOR_KEY_SHA256: createHash("sha256").update(operatorKey).digest("hex"),
    // No outage here is longer than this.
    ORCHESTRATOR_EXECUTE_RETRIES: "60",
    // These runs are no poison: whoever kills their owner means all of them.
    ORCHESTRATOR_MAX_CRASHES: "1000",
    ...(options.hasDefaultTimes === true ? {} : shortTimes),
  }

  function add(name: ClusterService, listen: string | undefined, replica: string, own = {}) {
    const prefix = name.toUpperCase()
    const key = testKeys.private.get(name)
    if (key === undefined || listen === undefined) throw new Error(`${name} cannot start`)
    const env: Record<string, string> = {
      ...shared,
      ...databaseEnv(prefix, databases[name]),
      [`${prefix}_IDENTITY_KEY`]: encodePrivateKey(key),
      [name === "gateway" ? "GATEWAY_INTERNAL_LISTEN" : `${prefix}_LISTEN`]: listen,
      ...own,
    }
    const spec = {
      name: `${name}${replica}`,
      script: "service-process.ts",
      args: [name, ...(options.mutations?.[name] ?? [])],
      env,
    }
    return stack.use(new SupervisedProcess(spec))
  }

  const through = (proxy: TcpProxy) => `127.0.0.1:${proxy.port}`
  const provider = stack.use(
    new SupervisedProcess({ ...offered, env: { ...shared, ...offered.env } }),
  )
  const others = [
    add("telemetry", telemetry, ""),
    add("moderation", moderation, ""),
    add("gateway", gateway, ""),
  ]
  const tools = [
    add("tools", toolsAt[0], " 1"),
    add(
      "tools",
      toolsAt[1],
      " 2",
      databaseEnv("TOOLS", databases.tools, proxies.toolsToDatabase.port),
    ),
  ] as const
  const orchestrators = [
    add("orchestrator", orchestratorAt[0], " 1"),
    add("orchestrator", orchestratorAt[1], " 2", {
      ...databaseEnv("ORCHESTRATOR", databases.orchestrator, proxies.orchestratorToDatabase.port),
      TOOLS_ADDRESS: through(proxies.orchestratorToTools),
      TELEMETRY_ADDRESS: through(proxies.orchestratorToTelemetry),
    }),
  ] as const

  const clients = stack.use(new AsyncDisposableStack())
  const cluster: Omit<Cluster, keyof AsyncDisposable> = {
    ...{ postgres, databases, orchestrators, tools, provider, others, proxies, ledgerFile },
    edgeUrl: `http://${edge}`,
    operatorKey,
    client(service, peer, as = "gateway") {
      const address = shared[`${peer.toUpperCase()}_ADDRESS` as "TOOLS_ADDRESS"]
      const transport = clients.use(createGrpcTransport(address, testRuntime(as), peer))
      return createMeshClient(service, transport)
    },
  }
  // The first of each migrates; the second finds it done.
  for (const each of [provider, ...others, tools[0], orchestrators[0]]) each.start()
  const first = [telemetry, moderation, gateway, toolsAt[0], orchestratorAt[0]]
  await untilServing(first as string[], [provider, ...others, tools[0], orchestrators[0]])
  for (const each of [tools[1], orchestrators[1]]) each.start()
  await untilServing([toolsAt[1], orchestratorAt[1]] as string[], [tools[1], orchestrators[1]])
  const owned = stack.move()
  return { ...cluster, [Symbol.asyncDispose]: () => owned.disposeAsync() }
}

/** Where a process finds its data, through a proxy's port where there is one. */
export function databaseEnv(
  prefix: string,
  config: DatabaseConfig,
  port?: number,
): Record<string, string> {
  const at = (url: string | undefined) => {
    const target = new URL(url ?? "")
    if (port !== undefined) target.port = String(port)
    return target.href
  }
  return {
    [`${prefix}_DATABASE_URL`]: at(config.appUrl),
    [`${prefix}_WORKER_DATABASE_URL`]: at(config.workerUrl),
    [`${prefix}_OWNER_DATABASE_URL`]: at(config.ownerUrl),
  }
}

/** Until everything answers that it serves. */
async function untilServing(
  addresses: readonly string[],
  processes: readonly SupervisedProcess[],
): Promise<void> {
  const end = Date.now() + 120_000
  for (const address of addresses) {
    await using transport = createGrpcTransport(address, testRuntime("gateway"), "gateway")
    const health = createMeshClient(Health, transport)
    while (!(await isServing(health))) {
      const dead = processes.filter(({ deaths }) => deaths.length > 3)
      if (dead.length > 0 || Date.now() > end) {
        throw new Error(dead.map(({ name, lines }) => `${name}: ${lines.join("\n")}`).join("\n"))
      }
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
}

function isServing(health: Client<typeof Health>): Promise<boolean> {
  const options = actingAs(serviceSubject("gateway", ""), { timeoutMs: 1_000 })
  return health.check({}, options).then(
    ({ status }) => status === HealthCheckResponse_ServingStatus.SERVING,
    () => false,
  )
}

/**
 * Ports that nobody listens on, below those that systems give to outgoing connections: one of these
 * could take a service's port while the service is dead.
 */
async function freePorts(count: number): Promise<readonly number[]> {
  const free = new Set<number>()
  while (free.size < count) {
    const port = 10_000 + Math.floor(Math.random() * 20_000)
    if (await isFree(port)) free.add(port)
  }
  return [...free]
}

function isFree(port: number): Promise<boolean> {
  const server = createServer()
  return new Promise((resolve) => {
    server.once("error", () => resolve(false))
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)))
  })
}
