/**
 * The product with the bench's two providers, in one process or each service in one of its own:
 * what a load can be put on.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { createServer } from "node:net"
import path from "node:path"
import type { Transport } from "@connectrpc/connect"
import pg from "pg"
import { pino } from "pino"
import { readEnv } from "../mesh/config.ts"
import { createGrpcTransport } from "../mesh/grpc-client.ts"
import { createSigner, createVerifier } from "../mesh/hop-tokens.ts"
import { type ServiceName, serviceNames } from "../mesh/identity.ts"
import {
  encodePrivateKey,
  encodeTrustedKeys,
  generateMeshKeys,
  type MeshKeys,
} from "../mesh/keys.ts"
import { goOn } from "../mesh/kill-points.ts"
import { createLocalTransport } from "../mesh/local-transport.ts"
import type { Runtime } from "../mesh/service.ts"
import { createOtlpExporter, createTracing, traceSettings } from "../mesh/tracing.ts"
import { databaseEnvironment } from "../services/local/local.ts"
import { createMesh } from "../services/local/mesh.ts"
import type { BenchDatabases } from "./bench-server.ts"
import { createEffectProvider, createEffects, groupings } from "./effect-provider.ts"
import type { Named } from "./machine.ts"

export interface BenchMeshOptions {
  readonly databases: BenchDatabases
  /** Environment of the services beside what the bench sets. */
  readonly env: Readonly<Record<string, string>>
  /** Where each process of a service writes its CPU profile as it ends. */
  readonly profileFolder: string | undefined
}

export interface BenchMesh extends AsyncDisposable {
  /** All of its processes by name. */
  readonly processes: Named
  /** The way to the orchestrator for an internal client, which calls in the gateway's name. */
  readonly orchestrator: Transport
  readonly edgeUrl: string
  readonly operatorKey: string
}

const root = path.resolve(import.meta.dirname, "..")
const startTimeoutMs = 60_000

/** All services and both providers in this process. */
export async function startLocalMesh(options: BenchMeshOptions): Promise<BenchMesh> {
  await using stack = new AsyncDisposableStack()
  const { databases } = options
  await prepareEffects(databases.effectsUrl)
  const keys = generateMeshKeys()
  const operator = createOperator()
  const providers = groupings.map((grouping) => {
    const { service, runtime } = createEffectProvider(grouping, databases.effectsUrl, keys.trusted)
    stack.use(service)
    return [grouping, { routes: service.routes, runtime }] as const
  })
  const traces = readEnv(traceSettings, options.env)
  const exporter = await createOtlpExporter(traces.OTEL_EXPORTER_OTLP_ENDPOINT)
  const mesh = stack.use(
    createMesh({
      env: {
        GATEWAY_LISTEN: "127.0.0.1:0",
        ...operator.env,
        ...databaseEnvironment(databases.services),
        // What carries these calls inside the process needs no address.
        TOOLS_PROVIDERS: groupings.map((name) => `${name}=127.0.0.1:1`).join(),
        ...options.env,
      },
      log: pino({ level: "warn" }, pino.destination(2)),
      keys,
      providers: new Map(providers),
      traceShare: traces.OTEL_TRACES_SAMPLER_ARG,
      ...(exporter === undefined ? {} : { exporter }),
    }),
  )
  await mesh.start(new AbortController().signal)
  const owned = stack.move()
  return {
    processes: { node: process.pid },
    orchestrator: createLocalTransport(mesh.target("orchestrator"), starterRuntime(keys)),
    edgeUrl: mesh.gateway.url,
    operatorKey: operator.key,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

/** Every service and every provider in a process of its own, over sockets. */
export async function startMeshProcesses(options: BenchMeshOptions): Promise<BenchMesh> {
  await using stack = new AsyncDisposableStack()
  const { databases } = options
  await prepareEffects(databases.effectsUrl)
  const keys = generateMeshKeys()
  const operator = createOperator()
  const names = [...serviceNames, ...groupings]
  const ports = await freePorts(names.length + 1)
  const addresses = new Map(names.map((name, index) => [name, `127.0.0.1:${ports[index]}`]))
  const edge = `127.0.0.1:${ports.at(-1)}`
  const shared = {
    PATH: process.env.PATH ?? "",
    RUNWARDEN_TRUSTED_KEYS: encodeTrustedKeys(keys.trusted),
    RUNWARDEN_LOG_LEVEL: "warn",
    TOOLS_PROVIDERS: groupings.map((name) => `${name}=${addresses.get(name)}`).join(),
    GATEWAY_LISTEN: edge,
    BENCH_EFFECTS_URL: databases.effectsUrl,
    ...Object.fromEntries(
      serviceNames.map((name) => [`${name.toUpperCase()}_ADDRESS`, addresses.get(name) ?? ""]),
    ),
    ...operator.env,
    ...databaseEnvironment(databases.services),
    ...options.env,
  }
  const children = new Map<string, ChildProcess>()
  stack.defer(() => endAll([...children.values()]))
  for (const grouping of groupings) {
    const env = { BENCH_GROUPING: grouping, BENCH_LISTEN: addresses.get(grouping) ?? "" }
    children.set(grouping, launch("bench/effect-process.ts", { ...shared, ...env }, options))
  }
  for (const name of serviceNames) {
    const prefix = name.toUpperCase()
    const key = keys.private.get(name)
    if (key === undefined) throw new Error(`no key for ${name}`)
    const listen = name === "gateway" ? "GATEWAY_INTERNAL_LISTEN" : `${prefix}_LISTEN`
    const env = {
      [listen]: addresses.get(name) ?? "",
      [`${prefix}_IDENTITY_KEY`]: encodePrivateKey(key),
    }
    children.set(name, launch(`services/${name}/main.ts`, { ...shared, ...env }, options))
  }
  await untilHealthy(`http://${edge}`, children)
  const transport = stack.use(
    createGrpcTransport(addresses.get("orchestrator") ?? "", starterRuntime(keys), "orchestrator"),
  )
  const owned = stack.move()
  return {
    processes: {
      starter: process.pid,
      ...Object.fromEntries([...children].map(([name, { pid = 0 }]) => [name, pid])),
    },
    orchestrator: transport,
    edgeUrl: `http://${edge}`,
    operatorKey: operator.key,
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

async function prepareEffects(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url })
  await client.connect()
  await client.query(createEffects)
  await client.end()
}

function createOperator() {
  const key = `operator-${randomBytes(32).toString("base64url")}`
  const hash = createHash("sha256").update(key).digest("hex")
  return { key, env: { GATEWAY_OPERATOR_KEY_SHA256: hash } }
}

/** An internal client: it signs as the gateway does for a member whose key it has checked. */
function starterRuntime(keys: MeshKeys): Runtime {
  const name: ServiceName = "gateway"
  const key = keys.private.get(name)
  if (key === undefined) throw new Error(`no key for ${name}`)
  return {
    name,
    signer: createSigner(name, key),
    verifier: createVerifier(name, keys.trusted),
    tracer: createTracing("bench").tracer,
    log: pino({ level: "warn" }),
    reached: goOn,
  }
}

function launch(
  file: string,
  env: Readonly<Record<string, string>>,
  { profileFolder }: BenchMeshOptions,
): ChildProcess {
  const flags = profileFolder === undefined ? [] : ["--cpu-prof", `--cpu-prof-dir=${profileFolder}`]
  return spawn(process.execPath, [...flags, path.join(root, file)], {
    cwd: root,
    env,
    // What goes wrong in it is seen.
    stdio: ["ignore", "inherit", "inherit"],
  })
}

async function endAll(children: readonly ChildProcess[]): Promise<void> {
  await Promise.all(
    children.map(async (child) => {
      if (child.exitCode !== null || child.signalCode !== null) return
      const { promise, resolve } = Promise.withResolvers<void>()
      child.once("exit", () => resolve())
      child.kill("SIGTERM")
      await promise
    }),
  )
}

async function untilHealthy(url: string, children: ReadonlyMap<string, ChildProcess>) {
  const end = Date.now() + startTimeoutMs
  for (;;) {
    for (const [name, child] of children) {
      if (child.exitCode !== null) throw new Error(`${name} ended before it was healthy`)
    }
    const answer = await fetch(`${url}/healthz`).catch(() => undefined)
    if (answer?.ok === true) return
    if (Date.now() > end) throw new Error("the processes were not healthy in time")
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

async function freePorts(count: number): Promise<readonly number[]> {
  const servers = await Promise.all(
    Array.from({ length: count }, async () => {
      const server = createServer()
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
      return server
    }),
  )
  const ports = servers.map((server) => {
    const address = server.address()
    return typeof address === "object" && address !== null ? address.port : 0
  })
  await Promise.all(
    servers.map((server) => new Promise<void>((resolve) => server.close(() => resolve()))),
  )
  return ports
}
