/**
 * The life of a service that is a process of its own: read the environment, start, serve until a
 * signal, stop in reverse order.
 */
import type { Transport } from "@connectrpc/connect"
import { pino } from "pino"
import { z } from "zod"
import { createMeshClient } from "./client.ts"
import {
  ConfigError,
  type Environment,
  listenAddress,
  peerAddress,
  readAll,
  readEnv,
} from "./config.ts"
import { createGrpcTransport } from "./grpc-client.ts"
import { createGrpcServer } from "./grpc-server.ts"
import { createSigner, createVerifier } from "./hop-tokens.ts"
import { type ServiceName, serviceNames } from "./identity.ts"
import { privateKeySetting, trustedKeysSetting } from "./keys.ts"
import { goOn } from "./kill-points.ts"
import { aborted, untilSignal } from "./lifecycle.ts"
import type { Peers, Runtime, ServiceModule } from "./service.ts"
import { createOtlpExporter, createTracing, traceSettings } from "./tracing.ts"

/** Where each service listens for its peers unless told otherwise. */
const defaultAddresses: Readonly<Record<ServiceName, string>> = {
  gateway: "127.0.0.1:7107",
  orchestrator: "127.0.0.1:7101",
  tools: "127.0.0.1:7102",
  moderation: "127.0.0.1:7103",
  retrieval: "127.0.0.1:7104",
  telemetry: "127.0.0.1:7105",
  projects: "127.0.0.1:7106",
}

/**
 * Runs one service until SIGINT or SIGTERM. A second signal, or a stop that takes too long, ends
 * the process at once. A configuration that cannot be used is one message and exit code 78. Only
 * tests of crashes give `reached`.
 */
export async function runService<Config>(
  module: ServiceModule<Config>,
  env: Environment,
  reached: Runtime["reached"] = goOn,
): Promise<void> {
  try {
    await untilSignal((signal) => serve(module, env, reached, signal))
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error
    process.stderr.write(`${module.name}: ${error.message}\n`)
    process.exitCode = 78
  }
}

async function serve<Config>(
  module: ServiceModule<Config>,
  env: Environment,
  reached: Runtime["reached"],
  signal: AbortSignal,
): Promise<void> {
  const { name } = module
  const [settings, config] = readAll(
    () => readProcessSettings(name, env),
    () => module.readConfig(env),
  )
  await using stack = new AsyncDisposableStack()
  const tracing = stack.use(
    createTracing(name, await createOtlpExporter(settings.otlpEndpoint), settings.traceShare),
  )
  const runtime: Runtime = {
    name,
    signer: createSigner(name, settings.privateKey),
    verifier: createVerifier(name, settings.trusted),
    tracer: tracing.tracer,
    log: pino({ name, level: settings.logLevel }),
    reached,
  }
  const peers = createPeers(runtime, settings.addresses, stack)
  const service = stack.use(module.create(config, runtime, peers))
  await service.start(signal)
  const server = stack.use(
    createGrpcServer(
      { routes: service.routes, runtime },
      {
        listen: settings.listen,
        ...(module.readLimits === undefined ? {} : { readLimits: module.readLimits }),
      },
    ),
  )
  const { port } = await server.start()
  runtime.log.info({ port }, "serving")
  await aborted(signal)
  runtime.log.info("stopping")
}

function createPeers(
  runtime: Runtime,
  addresses: Readonly<Record<ServiceName, string>>,
  stack: AsyncDisposableStack,
): Peers {
  const transports = new Map<string, Transport>()
  function transportTo(address: string, audience: string): Transport {
    const key = `${audience} ${address}`
    const held = transports.get(key)
    if (held !== undefined) return held
    const transport = stack.use(createGrpcTransport(address, runtime, audience))
    transports.set(key, transport)
    return transport
  }
  return {
    connect: (service, peer) => createMeshClient(service, transportTo(addresses[peer], peer)),
    transport: (peer) => transportTo(addresses[peer], peer),
    transportTo,
  }
}

/** What every service of the mesh reads from its environment, beside its own configuration. */
function readProcessSettings(name: ServiceName, env: Environment) {
  const prefix = name.toUpperCase()
  const listenName = name === "gateway" ? "GATEWAY_INTERNAL_LISTEN" : `${prefix}_LISTEN`
  const keyName = `${prefix}_IDENTITY_KEY`
  const [listen, key, addresses, shared] = readAll(
    () => readEnv({ [listenName]: listenAddress.default(defaultAddresses[name]) }, env)[listenName],
    () => readEnv({ [keyName]: privateKeySetting }, env)[keyName],
    () => readAddresses(env),
    () =>
      readEnv(
        {
          RUNWARDEN_TRUSTED_KEYS: trustedKeysSetting,
          RUNWARDEN_LOG_LEVEL: z
            .enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"])
            .default("info"),
          ...traceSettings,
        },
        env,
      ),
  )
  if (listen === undefined || key === undefined) throw new Error("a required setting has no value")
  return {
    listen,
    privateKey: key,
    addresses,
    trusted: shared.RUNWARDEN_TRUSTED_KEYS,
    logLevel: shared.RUNWARDEN_LOG_LEVEL,
    otlpEndpoint: shared.OTEL_EXPORTER_OTLP_ENDPOINT,
    traceShare: shared.OTEL_TRACES_SAMPLER_ARG,
  }
}

function readAddresses(env: Environment): Readonly<Record<ServiceName, string>> {
  const shape = Object.fromEntries(
    serviceNames.map((peer) => [
      `${peer.toUpperCase()}_ADDRESS`,
      peerAddress.default(defaultAddresses[peer]),
    ]),
  )
  const found = readEnv(shape, env)
  return Object.fromEntries(
    serviceNames.map((peer) => [peer, found[`${peer.toUpperCase()}_ADDRESS`]]),
  ) as Record<ServiceName, string>
}
