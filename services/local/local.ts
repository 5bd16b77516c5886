/**
 * The life of local mode.
 *
 * Construction, and release backwards: PostgreSQL, databases, mesh, demo workspace, demo. What it
 * leaves in the data folder: the database, the passwords of its roles, the keys of the mesh, and the
 * state by which the command line finds it.
 */
import { type Logger, pino } from "pino"
import { type Environment, readEnv } from "../../mesh/config.ts"
import type { DatabaseConfig } from "../../mesh/database.ts"
import {
  dataFolderFor,
  provisionDatabases,
  readPasswords,
  removeData,
  startEmbeddedPostgres,
} from "../../mesh/embedded-postgres.ts"
import { type ServiceName, serviceNames } from "../../mesh/identity.ts"
import { aborted, untilSignal } from "../../mesh/lifecycle.ts"
import { readLocalCredentialKeys, readLocalKeys } from "./local-keys.ts"

export interface LocalOptions {
  readonly checkout: string
  readonly env: Environment
  readonly port: number
  readonly isReset: boolean
  readonly print: (line: string) => void
}

/** Starts everything, shows the demo, and serves until SIGINT or SIGTERM. */
export async function runLocal(options: LocalOptions): Promise<void> {
  await untilSignal((signal) => serve(options, signal))
}

async function serve(options: LocalOptions, signal: AbortSignal): Promise<void> {
  const { checkout, env, print } = options
  const dataFolder = dataFolderFor(checkout)
  if (options.isReset) await reset(dataFolder, env, print)
  await using stack = new AsyncDisposableStack()
  const log = pino({ level: env.RUNWARDEN_LOG_LEVEL ?? "error" }, pino.destination(2))
  print("Starting Runwarden …")
  const code = loadCode()
  const databases = await prepareDatabases(options, { dataFolder, log, signal, stack })
  const { createMesh, createOtlpExporter, traceSettings, welcome } = await code
  const traces = readEnv(traceSettings, env)
  const exporter = await createOtlpExporter(traces.OTEL_EXPORTER_OTLP_ENDPOINT)
  const mesh = stack.use(
    createMesh({
      env: {
        GATEWAY_LISTEN: `127.0.0.1:${options.port}`,
        TOOLS_CREDENTIAL_KEYS: readLocalCredentialKeys(dataFolder),
        ...env,
        ...providersEnvironment(env),
        ...databaseEnvironment(databases),
      },
      log,
      keys: readLocalKeys(dataFolder),
      traceShare: traces.OTEL_TRACES_SAMPLER_ARG,
      ...(exporter === undefined ? {} : { exporter }),
    }),
  )
  await mesh.start(signal)
  print(`\nThe gateway serves ${mesh.gateway.url}   (Ctrl-C stops it)\n`)
  await welcome(mesh.gateway, { checkout, dataFolder, print }, signal)
  await aborted(signal)
  print("\nStopping …")
}

/** Loads the services, a second of work, while PostgreSQL starts in processes of its own. */
function loadCode() {
  const code = Promise.all([
    import("./mesh.ts"),
    import("../../mesh/tracing.ts"),
    import("./welcome.ts"),
  ]).then(([{ createMesh }, { createOtlpExporter, traceSettings }, { welcome }]) => {
    return { createMesh, createOtlpExporter, traceSettings, welcome }
  })
  // Heard where it is awaited; until then PostgreSQL comes first.
  code.catch(() => undefined)
  return code
}

interface Preparation {
  readonly dataFolder: string
  readonly log: Logger
  readonly signal: AbortSignal
  readonly stack: AsyncDisposableStack
}

async function prepareDatabases(
  { env }: LocalOptions,
  { dataFolder, log, signal, stack }: Preparation,
): Promise<Record<ServiceName, DatabaseConfig>> {
  const adminUrl =
    env.DATABASE_URL ?? stack.use(await startEmbeddedPostgres({ dataFolder, log, signal })).adminUrl
  return provisionDatabases(adminUrl, serviceNames, { passwordOf: readPasswords(dataFolder) })
}

/** Whoever adds a provider of their own keeps those that are built in. */
export function providersEnvironment(env: Environment): Environment {
  const { TOOLS_PROVIDERS: all = "", RUNWARDEN_PROVIDERS: added = "" } = env
  if (added === "") return {}
  // What carries these two inside the process needs no address.
  const builtIn = "projects=127.0.0.1:7106,retrieval=127.0.0.1:7104"
  return { TOOLS_PROVIDERS: `${all === "" ? builtIn : all},${added}` }
}

/** The environment by which services find their databases. */
export function databaseEnvironment(
  databases: Readonly<Record<ServiceName, DatabaseConfig>>,
): Environment {
  return Object.fromEntries(
    serviceNames.flatMap((name) => {
      const { appUrl, workerUrl, ownerUrl } = databases[name]
      const prefix = name.toUpperCase()
      return [
        [`${prefix}_DATABASE_URL`, appUrl],
        [`${prefix}_WORKER_DATABASE_URL`, workerUrl],
        ...(ownerUrl === undefined ? [] : [[`${prefix}_OWNER_DATABASE_URL`, ownerUrl]]),
      ]
    }),
  )
}

async function reset(
  dataFolder: string,
  env: Environment,
  print: (line: string) => void,
): Promise<void> {
  if (env.DATABASE_URL !== undefined) {
    throw new Error(
      "--reset deletes the embedded database only. Unset DATABASE_URL, or drop its databases yourself.",
    )
  }
  print(`Deleting ${dataFolder}`)
  await removeData(dataFolder)
}
