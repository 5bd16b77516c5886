/**
 * The life of local mode.
 *
 * Construction, and release backwards: PostgreSQL, databases, mesh, demo workspace, demo. What it
 * leaves in the data folder: the database, the passwords of its roles, the keys of the mesh, and the
 * state by which the command line finds it.
 */
import path from "node:path"
import type { DescService } from "@bufbuild/protobuf"
import type { Client } from "@connectrpc/connect"
import { pino } from "pino"
import { v5 } from "uuid"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { IngestionService } from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { createMeshClient } from "../../mesh/client.ts"
import { createGatewayTransport } from "../../mesh/client-transport.ts"
import type { Environment } from "../../mesh/config.ts"
import type { DatabaseConfig } from "../../mesh/database.ts"
import {
  dataFolderFor,
  provisionDatabases,
  readPasswords,
  removeData,
  startEmbeddedPostgres,
} from "../../mesh/embedded-postgres.ts"
import { type ServiceName, serviceNames } from "../../mesh/identity.ts"
import {
  type LocalMember,
  type LocalState,
  readLocalState,
  writeLocalState,
} from "../../mesh/local-state.ts"
import { aborted, untilSignal } from "../../mesh/process.ts"
import { createOtlpExporter } from "../../mesh/tracing.ts"
import type { Gateway } from "../gateway/service.ts"
import { type DemoDeps, ingestDocuments, performRuns } from "./demo.ts"
import { readLocalKeys } from "./local-keys.ts"
import { createMesh } from "./mesh.ts"

export interface LocalOptions {
  readonly checkout: string
  readonly env: Environment
  readonly port: number
  readonly isReset: boolean
  readonly print: (line: string) => void
}

/** The demo workspace has the same ids everywhere, so that what is written about it stays true. */
const workspaceId = "0199a000-0000-7000-8000-000000000001"
const demoMembers = [
  { role: "admin", displayName: "Ada (admin)" },
  { role: "approver", displayName: "Avery (approver)" },
  { role: "member", displayName: "Mika (member)" },
  { role: "viewer", displayName: "Vera (viewer)" },
] as const
const roles = {
  admin: Role.ADMIN,
  approver: Role.APPROVER,
  member: Role.MEMBER,
  viewer: Role.VIEWER,
} as const

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
  const adminUrl =
    env.DATABASE_URL ?? stack.use(await startEmbeddedPostgres({ dataFolder, log, signal })).adminUrl
  const databases = await provisionDatabases(adminUrl, serviceNames, {
    passwordOf: readPasswords(dataFolder),
  })
  const exporter = await createOtlpExporter(env.OTEL_EXPORTER_OTLP_ENDPOINT)
  const mesh = stack.use(
    createMesh({
      env: {
        GATEWAY_LISTEN: `127.0.0.1:${options.port}`,
        ...env,
        ...providersEnvironment(env),
        ...databaseEnvironment(databases),
      },
      log,
      keys: readLocalKeys(dataFolder),
      ...(exporter === undefined ? {} : { exporter }),
    }),
  )
  await mesh.start(signal)
  const url = mesh.gateway.url
  print(`\nThe gateway serves ${url}   (Ctrl-C stops it)\n`)
  const before = readLocalState(dataFolder)
  const state = await seed(mesh.gateway, url, before)
  writeLocalState(dataFolder, state)
  await show(options, state, before !== undefined, signal)
  await aborted(signal)
  print("\nStopping …")
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

async function seed(
  gateway: Gateway,
  url: string,
  before: LocalState | undefined,
): Promise<LocalState> {
  const members = demoMembers.map(({ role, displayName }) => {
    const actorId = v5(role, workspaceId)
    const known = before?.members.find((member) => member.actorId === actorId)
    return {
      actorId,
      displayName,
      role: roles[role],
      ...(known === undefined ? {} : { apiKeySecret: known.apiKey }),
    }
  })
  const { secrets } = await gateway.ensureWorkspace({
    workspaceId,
    displayName: "Demo",
    members,
  })
  return {
    url,
    workspaceId,
    members: demoMembers.map(({ role, displayName }): LocalMember => {
      const actorId = v5(role, workspaceId)
      const apiKey = secrets.get(actorId)
      if (apiKey === undefined) throw new Error(`no key for the ${role}`)
      return { actorId, displayName, role, apiKey }
    }),
  }
}

async function show(
  options: LocalOptions,
  state: LocalState,
  isKnown: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { print, checkout } = options
  print("API keys of the demo workspace:")
  for (const { role, apiKey } of state.members) print(`  ${role.padEnd(9)} ${apiKey}`)
  print(`  workspace ${state.workspaceId}`)
  const deps = demoDeps(state, print, signal)
  try {
    const count = await ingestDocuments(deps, path.join(checkout, "docs"))
    print(`\n${count} documents of the project are in the index.`)
    if (isKnown) await tellState(deps)
    else await performRuns(deps).then((approvalId) => print(confirmHint(approvalId)))
    print(whatNext(state))
  } catch (error) {
    if (signal.aborted) return
    throw error
  }
}

function demoDeps(state: LocalState, print: (line: string) => void, signal: AbortSignal): DemoDeps {
  const apiKey = state.members.find((member) => member.role === "member")?.apiKey ?? ""
  const transport = createGatewayTransport({ url: state.url, apiKey })
  const connect = <S extends DescService>(service: S): Client<S> =>
    createMeshClient(service, transport)
  return {
    workspaceId: state.workspaceId,
    runs: connect(RunService),
    toolCalls: connect(ToolCallService),
    approvals: connect(ApprovalService),
    ingestion: connect(IngestionService),
    print,
    signal,
  }
}

async function tellState(deps: DemoDeps): Promise<void> {
  const { workspaceId, print, signal } = deps
  const { runs } = await deps.runs.listRuns({ workspaceId, pageSize: 200 }, { signal })
  const { approvals } = await deps.approvals.listApprovals({ workspaceId }, { signal })
  print(`Found ${runs.length}${runs.length === 200 ? " or more" : ""} runs of earlier sessions.`)
  const [waiting] = approvals
  if (waiting !== undefined) print(confirmHint(waiting.approvalId))
}

function confirmHint(approvalId: string): string {
  return `
A call waits for a person. Confirm it, as somebody other than the one who asked, in another terminal:

  npx runwarden --as approver approval confirm ${approvalId}
`
}

function whatNext(state: LocalState): string {
  return `What to try next:

  npx runwarden run list
  npx runwarden search "moderation cannot be had"
  npx runwarden metrics
  npx runwarden --help

  curl -H "Authorization: Bearer $KEY" "${state.url}/ai/runs?workspace_id=${state.workspaceId}"
`
}
