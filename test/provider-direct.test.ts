// The orders provider of each language, called in the place of the tools service: what a repeated key
// gives, what a token must say, and how it ends.
import { generateKeyPairSync, type KeyObject } from "node:crypto"
import { create, type DescMethod, type Message, toBinary } from "@bufbuild/protobuf"
import { type CallOptions, type Client, createClient } from "@connectrpc/connect"
import * as grpc from "@grpc/grpc-js"
import { SignJWT } from "jose"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { Outcome, ToolProviderService } from "../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { createGrpcTransport } from "../mesh/grpc-client.ts"
import { actingAs, identityHeader, memberSubject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { testKeys, testRuntime, until } from "../mesh/testing.ts"
import { availableLanguages, removePrograms } from "./example-programs.ts"
import { type OrdersProvider, ordersProvider } from "./orders-provider.ts"

const patience = { timeoutMs: 30_000 }

afterAll(removePrograms)

describe.each(availableLanguages("providers"))(
  "a provider in $name, called directly",
  (language) => {
    const stack = new AsyncDisposableStack()
    let provider: OrdersProvider

    beforeAll(async () => {
      provider = stack.use(await ordersProvider(language))
      await provider.start()
    }, 300_000)
    afterAll(() => stack.disposeAsync())

    test.each([
      ["order.refund", { order_id: "A-1001", cents: 100 }, { refunded_cents: 100 }],
      ["order.note", { order_id: "A-1001", text: "Ring twice." }, { notes: ["Ring twice."] }],
      ["order.note", { order_id: "B-1", text: "Nobody's." }, { reason: "order_not_found" }],
    ])(
      "a repeated key of %s gives the stored answer, after a restart too",
      async (tool, args, value) => {
        await provider.start()
        const workspaceId = newId()
        const call = { ...refundCall(workspaceId), tool, arguments: args }
        const first = await (await connected()).executeTool(call, as(workspaceId))
        expect(first.outcome.value).toMatchObject(value)
        await provider.start()
        const orders = await connected()
        expect((await orders.executeTool(call, as(workspaceId))).outcome).toEqual(first.outcome)
        expect(provider.output()).not.toContain("paying")
        const about = { workspaceId, tool, idempotencyKey: call.idempotencyKey }
        expect(await orders.getOutcome(about, as(workspaceId))).toMatchObject({
          outcome: Outcome.COMPLETED,
          response: { outcome: first.outcome },
        })
        const never = { ...about, idempotencyKey: "never" }
        expect((await orders.getOutcome(never, as(workspaceId))).outcome).toBe(Outcome.UNKNOWN)
        // The workspace is the token's, whatever the request says.
        expect((await orders.getOutcome(about, as(newId()))).outcome).toBe(Outcome.UNKNOWN)
      },
      60_000,
    )

    test("its definitions are the same after a restart, or they would be quarantined", async () => {
      const before = await (await connected()).listTools({}, as(newId()))
      await provider.start()
      expect(await (await connected()).listTools({}, as(newId()))).toEqual(before)
    }, 60_000)

    test("calls at the same moment have callers, errors and results of their own", async () => {
      const orders = await connected()
      const callers = Array.from({ length: 20 }, newId)
      const answers = await Promise.all(
        callers.map((workspaceId, index) => {
          const text = `note ${index}`
          const args = { order_id: index === 7 ? "B-1" : "A-1001", text }
          const call = { ...refundCall(workspaceId), tool: "order.note", arguments: args }
          return orders
            .executeTool(index === 3 ? { ...call, version: "9" } : call, as(workspaceId))
            .then(({ outcome }) => outcome.value, String)
        }),
      )
      answers.forEach((answer, index) => {
        if (index === 3) expect(answer).toContain("[invalid_argument]")
        else if (index === 7) expect(answer).toMatchObject({ reason: "order_not_found" })
        else expect(answer).toMatchObject({ notes: [`note ${index}`] })
      })
      // What a process prints may come later than what it answers.
      await until(
        () => callers.every((workspaceId) => provider.output().includes(workspaceId)),
        patience,
      )
      // Of the examples, one offers to take calls together.
      expect(provider.output().includes("batch items")).toBe(language.name === "go")
    }, 60_000)

    test("a deadline reaches it, and ends what it waits for", async () => {
      await provider.start({ ORDERS_LOOKUP_MS: "60000" })
      const workspaceId = newId()
      const orders = await connected()
      const call = { ...refundCall(workspaceId), tool: "order.get" }
      const options = { ...as(workspaceId), timeoutMs: 3_000 }
      await expect(orders.executeTool(call, options)).rejects.toThrow()
      const line = await until(
        () =>
          provider
            .output()
            .match(/^.*tool=order\.get .*left_ms=.*$/m)
            ?.join(""),
        patience,
      )
      const left = Number(/left_ms=(\d+)/.exec(line)?.[1])
      expect(left).toBeGreaterThan(0)
      expect(left).toBeLessThanOrEqual(3_000)
      await until(() => provider.output().includes("stopped"), patience)
    }, 60_000)

    test("a refund of more than is left is refused, and changes nothing", async () => {
      await provider.start()
      const orders = await connected()
      const workspaceId = newId()
      const call = { ...refundCall(workspaceId), arguments: { order_id: "A-1001", cents: 4_901 } }
      const { outcome } = await orders.executeTool(call, as(workspaceId))
      expect(outcome.value).toMatchObject({ reason: "refund_too_large" })
      const read = {
        ...refundCall(workspaceId),
        tool: "order.get",
        arguments: { order_id: "A-1001" },
      }
      const after = await orders.executeTool(read, as(workspaceId))
      expect(after.outcome.value).toMatchObject({ refunded_cents: 0 })
    }, 60_000)

    test("a tool or version that is not offered is refused before any effect", async () => {
      const workspaceId = newId()
      const orders = await connected()
      for (const change of [{ tool: "order.burn" }, { version: "9.9.9" }]) {
        const error: unknown = await orders
          .executeTool({ ...refundCall(workspaceId), ...change }, as(workspaceId))
          .catch((caught: unknown) => caught)
        expect(error).toMatchObject({ code: grpc.status.INVALID_ARGUMENT })
      }
    }, 60_000)

    test("a token that is absent, forged, old or for somebody else is refused", async () => {
      await provider.start()
      await connected()
      const own = signingKey("tools")
      const now = Math.floor(Date.now() / 1000)
      const signed = (key: KeyObject, change: TokenChange) =>
        sign(key, { audience: provider.name, ...change })
      expect(await codeWith(await signed(own, {}))).toBe("accepted")
      const refused = {
        absent: undefined,
        garbage: "e30.e30.e30",
        "of a stranger's key": await signed(generateKeyPairSync("ed25519").privateKey, {}),
        "of another service": await signed(signingKey("gateway"), { issuer: "gateway" }),
        "of another service that calls itself tools": await signed(signingKey("gateway"), {}),
        "of tools in another's name": await signed(own, { issuer: "gateway" }),
        "for another provider": await signed(own, { audience: "projects" }),
        "of another type": await signed(own, { typ: "JWT" }),
        "signed by nothing": unsigned(await signed(own, {})),
        expired: await signed(own, { issuedAt: now - 90 }),
        "from the future": await signed(own, { issuedAt: now + 90 }),
        "that lives too long": await signed(own, { issuedAt: now - 90, lifeSeconds: 3_600 }),
      }
      for (const [which, token] of Object.entries(refused)) {
        expect.soft(await codeWith(token), which).toBe(grpc.status.UNAUTHENTICATED)
      }
      expect(provider.output().match(/paying/g)).toHaveLength(1)
    }, 60_000)

    test("asked to end, it finishes the payment that has begun, and then ends well", async () => {
      const { child, ended } = await provider.start({ ORDERS_PAYMENT_MS: "1000" })
      const orders = await connected()
      const workspaceId = newId()
      const call = refundCall(workspaceId)
      const paid = orders.executeTool(call, as(workspaceId))
      await until(() => provider.output().includes("paying"), patience)
      child.kill("SIGTERM")
      expect((await paid).outcome.value).toMatchObject({ refunded_cents: 100 })
      expect(await ended).toBe(0)
    }, 60_000)

    /** A client in the place of the tools service, whose channels have found their way after a kill. */
    async function connected(): Promise<Client<typeof ToolProviderService>> {
      const address = `127.0.0.1:${provider.port}`
      const transport = createGrpcTransport(address, testRuntime("tools"), provider.name)
      const client = createClient(ToolProviderService, stack.use(transport))
      // A tool that is not there: whatever the answer, somebody gave it.
      const call = { ...refundCall(newId()), tool: "order.burn" }
      const options = as(call.workspaceId)
      await until(async () => {
        // Calls that may be repeated have a channel of their own.
        const [executed, listed] = await Promise.allSettled([
          client.executeTool(call, options),
          client.listTools({}, options),
        ])
        const isRefused = executed.status === "rejected" && executed.reason.code === 3
        return isRefused && listed.status === "fulfilled"
      }, patience)
      return client
    }

    /** The code by which every method answers a call with this token, by a client that is only gRPC. */
    async function codeWith(token: string | undefined): Promise<unknown> {
      const address = `127.0.0.1:${provider.port}`
      const channel = new grpc.Client(address, grpc.credentials.createInsecure())
      const metadata = new grpc.Metadata()
      if (token !== undefined) metadata.set(identityHeader, token)
      const { listTools, executeTool, getOutcome } = ToolProviderService.method
      const send = (method: DescMethod, message: Message) =>
        new Promise((resolve) => {
          channel.makeUnaryRequest(
            `/${method.parent.typeName}/${method.name}`,
            (input: Message) => Buffer.from(toBinary(method.input, input)),
            () => "accepted",
            message,
            metadata,
            { deadline: Date.now() + 5_000 },
            (error, answer) => resolve(error?.code ?? answer),
          )
        })
      const codes = await Promise.all([
        send(listTools, create(listTools.input)),
        send(executeTool, create(executeTool.input, refundCall(newId()))),
        send(getOutcome, create(getOutcome.input, { tool: "order.refund", idempotencyKey: "x" })),
      ])
      channel.close()
      return new Set(codes).size === 1 ? codes[0] : codes
    }
  },
)

function as(workspaceId: string): CallOptions {
  return actingAs(memberSubject(workspaceId, newId(), Role.MEMBER))
}

function refundCall(workspaceId: string) {
  return {
    workspaceId,
    tool: "order.refund",
    version: "1.0.0",
    idempotencyKey: newId(),
    arguments: { order_id: "A-1001", cents: 100 },
    runId: newId(),
  }
}

function signingKey(name: "tools" | "gateway"): KeyObject {
  const key = testKeys.private.get(name)
  if (key === undefined) throw new Error(`no key for ${name}`)
  return key
}

interface TokenChange {
  readonly issuer?: string
  readonly audience?: string
  readonly typ?: string
  readonly issuedAt?: number
  readonly lifeSeconds?: number
}

function sign(key: KeyObject, change: TokenChange): Promise<string> {
  const { issuer = "tools", audience = "", typ = "runwarden-hop+jwt" } = change
  const { issuedAt = Math.floor(Date.now() / 1000), lifeSeconds = 60 } = change
  return new SignJWT({ ws: newId(), kind: "member", role: Role.MEMBER })
    .setProtectedHeader({ alg: "EdDSA", typ, kid: issuer })
    .setIssuer(issuer)
    .setAudience(audience)
    .setSubject("somebody")
    .setIssuedAt(issuedAt)
    .setExpirationTime(issuedAt + lifeSeconds)
    .sign(key)
}

function unsigned(token: string): string {
  const header = { alg: "none", typ: "runwarden-hop+jwt", kid: "tools" }
  return `${Buffer.from(JSON.stringify(header)).toString("base64url")}.${token.split(".")[1]}.`
}
