/** The way out for gRPC: what a name leads to is looked at for each connection, and proved by TLS. */
import { type AddressInfo, createServer, type Server as NetServer, type Socket } from "node:net"
import { inspect } from "node:util"
import { Code, createClient } from "@connectrpc/connect"
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { ToolProviderService } from "../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { EgressRefused } from "./egress.ts"
import { createForeignGrpcTransport } from "./egress-grpc.ts"
import { RunwardenError, reasonOf } from "./errors.ts"
import { definition, FakeProvider } from "./fixtures/fake-provider.ts"
import { createGrpcServer, type GrpcServer } from "./grpc-server.ts"
import { createVerifier } from "./hop-tokens.ts"
import { actingAs, type ServiceName, serviceSubject } from "./identity.ts"
import { newId } from "./ids.ts"
import { wasNeverSent } from "./never-sent.ts"
import { testKeys, testRuntime, until } from "./testing.ts"

const audience = "provider:of-a-test" as ServiceName
const stack = new AsyncDisposableStack()
const provider = new FakeProvider()
let names: Record<string, readonly string[]> = {}
let asked: string[] = []
let server: GrpcServer
let port = 0
/** Takes connections and counts them; nothing may reach it. */
let canary: NetServer
let canaryPort = 0
let reached = 0

beforeAll(async () => {
  provider.tools = [definition("look")]
  const verifier = createVerifier(audience, testKeys.trusted)
  const runtime = { ...testRuntime("projects"), verifier }
  server = stack.use(
    createGrpcServer({ routes: [provider.route()], runtime }, { listen: "127.0.0.1:0" }),
  )
  port = (await server.start()).port
  canary = createServer((socket: Socket) => {
    reached++
    socket.on("error", () => {})
    socket.end()
  })
  await new Promise<void>((resolve) => canary.listen(0, "127.0.0.1", resolve))
  canaryPort = (canary.address() as AddressInfo).port
})
beforeEach(() => {
  names = {}
  asked = []
  reached = 0
})
afterAll(async () => {
  await stack.disposeAsync()
  canary.close()
})

describe("an address that the deployment names", () => {
  test("is reached, with what goes with each call, by the address that was looked at", async () => {
    names = { "provider.test": ["127.0.0.1"] }
    await using opened = open(`http://provider.test:${port}`)
    const { tools } = await opened.list()
    expect(tools.map(({ name }) => name)).toEqual(["look"])
    expect(asked).toEqual(["provider.test"])
  })

  test("is looked at anew when its connection is lost", async () => {
    names = { "provider.test": ["127.0.0.1"] }
    await using opened = open(`http://provider.test:${port}`)
    await opened.list()
    names = { "provider.test": ["169.254.169.254"] }
    await server[Symbol.asyncDispose]()
    const runtime = {
      ...testRuntime("projects"),
      verifier: createVerifier(audience, testKeys.trusted),
    }
    server = stack.use(
      createGrpcServer({ routes: [provider.route()], runtime }, { listen: `127.0.0.1:${port}` }),
    )
    await server.start()
    await until(async () => {
      await opened.list().catch(() => undefined)
      return asked.length > 1
    })
    await until(() => opened.send().then(() => false, wasNeverSent), { timeoutMs: 20_000 })
  })
})

describe("what leads elsewhere is not reached", () => {
  test.each([
    ["loopback", ["127.0.0.1"]],
    ["loopback, mapped", ["::ffff:127.0.0.1"]],
    ["every address", ["0.0.0.0"]],
    ["a mixture", ["127.0.0.1", "8.8.8.8"]],
    ["a private network", ["10.0.0.1"]],
    ["metadata", ["169.254.169.254"]],
  ])("%s, by its name", async (_, addresses) => {
    names = { "public.test": addresses }
    // On the port where somebody listens: what is looked at is where the name leads to.
    await using opened = open(`https://public.test:${canaryPort}`, [], "any")
    const error = await opened.send().catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("DEPENDENCY_UNAVAILABLE")
    expect(wasNeverSent(error)).toBe(true)
    expect(asked).toContain("public.test")
    expect(reached).toBe(0)
  })

  test.each([
    "http://public.test:443",
    "https://public.test:22",
    "https://127.0.0.1:443",
    "https://[::1]:443",
    "https://[::ffff:a9fe:a9fe]:443",
    "https://2130706433:443",
    "https://0x7f.1:8443",
    "https://user@public.test:443",
  ])("%s, at once", (url) => {
    expect(() => open(url, [])).toThrow(EgressRefused)
  })

  test("another port of this machine than the one that is named", () => {
    expect(() => open(`http://127.0.0.1:${canaryPort}`, [`http://127.0.0.1:${port}`])).toThrow(
      EgressRefused,
    )
    expect(reached).toBe(0)
  })

  test("a server that does not prove who it is", async () => {
    names = { "provider.test": ["127.0.0.1"] }
    await using opened = open(`https://provider.test:${port}`)
    const error = await opened.send().catch((caught: unknown) => caught)
    expect(wasNeverSent(error)).toBe(true)
  })
})

test("what it says in an error stays there, and what the error means does not", async () => {
  names = { "provider.test": ["127.0.0.1"] }
  provider.answer = () => {
    throw new RunwardenError("UNKNOWN_TOOL", { tool: "its own words" })
  }
  await using opened = open(`http://provider.test:${port}`)
  const error = await opened.send().catch((caught: unknown) => caught)
  expect(error).toMatchObject({ code: Code.InvalidArgument })
  expect(inspect(error, { depth: 9 })).not.toContain("its own words")
  expect(wasNeverSent(error)).toBe(false)
})

function open(
  given: string,
  configured = [new URL(given).origin],
  ports: "any" | undefined = undefined,
) {
  const url = new URL(given)
  const transport = createForeignGrpcTransport({
    url,
    caller: testRuntime("tools"),
    audience,
    egress: {
      configured,
      ...(ports === undefined ? {} : { ports }),
      resolve: async (name) => {
        asked.push(name)
        return names[name] ?? []
      },
    },
    headers: () => [["x-key", "value"]],
  })
  const client = createClient(ToolProviderService, transport)
  const workspaceId = newId()
  const options = actingAs(serviceSubject("tools", workspaceId), { timeoutMs: 5_000 })
  const call = {
    tool: "look",
    version: "1.0.0",
    idempotencyKey: "key",
    arguments: { text: "" },
    runId: newId(),
  }
  return {
    list: () => client.listTools({}, options),
    send: () => client.executeTool({ ...call, workspaceId }, options),
    [Symbol.asyncDispose]: () => transport[Symbol.asyncDispose](),
  }
}
