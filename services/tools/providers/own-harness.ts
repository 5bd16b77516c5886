/** What the tests of workspaces' own providers share: one that listens, and an admin who adds it. */
import { randomBytes } from "node:crypto"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import type { Credential } from "../../../gen/runwarden/tools/v1/provider_pb.ts"
import type { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { FakeProvider } from "../../../mesh/fixtures/fake-provider.ts"
import { createGrpcServer } from "../../../mesh/grpc-server.ts"
import { createVerifier } from "../../../mesh/hop-tokens.ts"
import {
  actingAs,
  identityHeader,
  memberSubject,
  type ServiceName,
  type Subject,
} from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { testKeys, testRuntime } from "../../../mesh/testing.ts"
import type { ToolsConfig } from "../config.ts"
import { noWorkspaceProviders, type Started, standardTools } from "../tools-harness.ts"
import { audienceOf } from "./foreign-grpc.ts"
import { createKeyring, type Keyring } from "./keyring.ts"

/** A provider of one workspace, on a port of its own. */
export interface Listening extends AsyncDisposable {
  readonly provider: FakeProvider
  /** `127.0.0.1:port`. */
  readonly address: string
  /** The headers of every call that arrived. */
  readonly headers: Headers[]
}

export async function listen(subject: Subject, name = "orders"): Promise<Listening> {
  const provider = new FakeProvider()
  provider.tools = [...standardTools]
  const audience = audienceOf(subject.workspaceId, name) as ServiceName
  const headers: Headers[] = []
  const verifier = createVerifier(audience, testKeys.trusted)
  const runtime = { ...testRuntime("projects"), verifier }
  const { service, implementation } = provider.route()
  const noted = Object.fromEntries(
    Object.entries(implementation).map(([method, serve]) => [
      method,
      (request: never, context: { requestHeader: Headers }) => {
        headers.push(context.requestHeader)
        return (serve as (request: never, context: object) => unknown)(request, context)
      },
    ]),
  ) as typeof implementation
  const server = createGrpcServer(
    { routes: [{ service, implementation: noted }], runtime },
    { listen: "127.0.0.1:0" },
  )
  const { port } = await server.start()
  return {
    provider,
    headers,
    address: `127.0.0.1:${port}`,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  }
}

export function newAdmin(workspaceId = newId()): Subject {
  return memberSubject(workspaceId, newId(), Role.ADMIN)
}

/** A ring of fresh keys of these ids; the first seals. */
export function ringOf(...ids: readonly string[]): Keyring {
  return createKeyring(new Map(ids.map((id) => [id, randomBytes(32)])))
}

/** What a deployment allows that knows these addresses. */
export function allowing(
  addresses: readonly string[],
  rest: Partial<ToolsConfig["workspaceProviders"]> = {},
): ToolsConfig["workspaceProviders"] {
  const origins = addresses.map((address) => `http://${address}`)
  return { ...noWorkspaceProviders, keyring: ringOf("k1"), origins, ...rest }
}

/** Adds a gRPC provider and waits until it was asked. */
export async function add(
  { providers }: Pick<Started, "providers">,
  admin: Subject,
  address: string,
  rest: {
    readonly name?: string
    readonly credentials?: readonly Pick<Credential, "name" | "value">[]
    readonly toolSettings?: Record<string, { riskClass: RiskClass; effect: Effect }>
  } = {},
) {
  const { workspaceId } = admin
  const { name = "orders", credentials = [], toolSettings = {} } = rest
  await providers.createProvider(
    {
      workspaceId,
      requestId: newId(),
      name,
      connection: { kind: { case: "grpc", value: { address, plaintext: true } } },
      credentials: [...credentials],
      toolSettings,
    },
    actingAs(admin),
  )
  return refresh({ providers }, admin, name)
}

export async function refresh(
  { providers }: Pick<Started, "providers">,
  admin: Subject,
  provider = "orders",
) {
  const { workspaceId } = admin
  return providers.refreshProvider(
    { workspaceId, requestId: newId(), provider },
    actingAs(admin, { timeoutMs: 20_000 }),
  )
}

/** The token that a call brought. */
export function tokenIn(headers: Headers | undefined): string {
  return headers?.get(identityHeader) ?? ""
}
