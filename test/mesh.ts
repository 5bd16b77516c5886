/** The whole mesh for tests: seven services on databases of their own, workspaces with members. */
import { randomBytes, randomUUID } from "node:crypto"
import type { DescService } from "@bufbuild/protobuf"
import type { Client } from "@connectrpc/connect"
import type { SpanExporter } from "@opentelemetry/sdk-trace"
import { pino } from "pino"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { createGatewayTransport, type GatewayTransportOptions } from "../mesh/client-transport.ts"
import type { Environment } from "../mesh/config.ts"
import { serviceNames } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { testDatabase, testKeys } from "../mesh/testing.ts"
import { databaseEnvironment } from "../services/local/local.ts"
import { createMesh, type Mesh } from "../services/local/mesh.ts"

/** One member and the key it calls with. */
export interface TestMember {
  readonly actorId: string
  readonly role: Role
  readonly apiKey: string
}

/** A workspace with one member of each role. */
export interface TestWorkspace {
  readonly workspaceId: string
  readonly admin: TestMember
  readonly approver: TestMember
  readonly member: TestMember
  readonly viewer: TestMember
}

export interface TestMesh extends AsyncDisposable {
  readonly mesh: Mesh
  readonly url: string
  /** The environment that the services run in, for a second mesh on the same data. */
  readonly env: Environment
  addWorkspace(): Promise<TestWorkspace>
  /** A client at the gateway's edge. */
  client<S extends DescService>(
    service: S,
    member: { readonly apiKey: string },
    options?: Partial<GatewayTransportOptions>,
  ): Client<S>
  /** Ends the mesh but keeps its databases, as a restart would. */
  stop(): Promise<void>
  /** Starts it again on the same data, perhaps in another environment. */
  restart(changes?: Environment): Promise<void>
}

export interface TestMeshOptions {
  readonly wire?: "local" | "grpc"
  readonly exporter?: SpanExporter
  readonly env?: Environment
}

/** Starts a mesh on fresh databases. */
export async function startTestMesh(options: TestMeshOptions = {}): Promise<TestMesh> {
  await using stack = new AsyncDisposableStack()
  const databases = await Promise.all(
    serviceNames.map(async (name) => [name, stack.use(await testDatabase(name))] as const),
  )
  const env: Environment = {
    GATEWAY_LISTEN: "127.0.0.1:0",
    ...databaseEnvironment(Object.fromEntries(databases) as never),
    TOOLS_CREDENTIAL_KEYS: `test:${randomBytes(32).toString("base64")}`,
    TOOLS_PROVIDER_ORIGINS: "http://127.0.0.1:9",
    ...options.env,
  }
  let mesh = await start(env, options)
  stack.defer(() => mesh[Symbol.asyncDispose]())
  const owned = stack.move()
  return {
    get mesh() {
      return mesh
    },
    get url() {
      return mesh.gateway.url
    },
    env,
    addWorkspace: () => addWorkspace(mesh),
    client: (service, member, transportOptions) =>
      createMeshClient(
        service,
        createGatewayTransport({
          url: mesh.gateway.url,
          apiKey: member.apiKey,
          ...transportOptions,
        }),
      ),
    async stop() {
      await mesh[Symbol.asyncDispose]()
    },
    async restart(changes = {}) {
      await mesh[Symbol.asyncDispose]()
      mesh = await start({ ...env, ...changes }, options)
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

async function start(env: Environment, options: TestMeshOptions): Promise<Mesh> {
  const mesh = createMesh({
    env,
    log: pino({ level: "fatal" }),
    keys: testKeys,
    ...(options.wire === undefined ? {} : { wire: options.wire }),
    ...(options.exporter === undefined ? {} : { exporter: options.exporter }),
  })
  try {
    await mesh.start(new AbortController().signal)
    return mesh
  } catch (error) {
    await mesh[Symbol.asyncDispose]()
    throw error
  }
}

async function addWorkspace(mesh: Mesh): Promise<TestWorkspace> {
  const workspaceId = newId()
  const people = {
    admin: Role.ADMIN,
    approver: Role.APPROVER,
    member: Role.MEMBER,
    viewer: Role.VIEWER,
  }
  const members = Object.entries(people).map(([name, role]) => ({
    name,
    role,
    actorId: randomUUID(),
    displayName: name,
  }))
  const { secrets } = await mesh.gateway.ensureWorkspace({
    workspaceId,
    displayName: "Test",
    members,
  })
  const byName = Object.fromEntries(
    members.map(({ name, actorId, role }) => [
      name,
      { actorId, role, apiKey: secrets.get(actorId) ?? "" },
    ]),
  ) as Record<keyof typeof people, TestMember>
  return { workspaceId, ...byName }
}
