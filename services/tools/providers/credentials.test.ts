import { toJsonString } from "@bufbuild/protobuf"
import { Code, ConnectError } from "@connectrpc/connect"
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace"
import { pino } from "pino"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { ListProvidersResponseSchema } from "../../../gen/runwarden/tools/v1/provider_service_pb.ts"
import { RegistryServiceListToolsResponseSchema } from "../../../gen/runwarden/tools/v1/registry_service_pb.ts"
import { connect, openDatabase } from "../../../mesh/database.ts"
import { metadataOf, reasonOf } from "../../../mesh/errors.ts"
import { result } from "../../../mesh/fixtures/fake-provider.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { testRuntime, until } from "../../../mesh/testing.ts"
import { callOf, execute, type Started, startTools } from "../tools-harness.ts"
import { createKeyring } from "./keyring.ts"
import { add, allowing, type Listening, listen, newAdmin, refresh } from "./own-harness.ts"
import { rotateAll } from "./rotation.ts"

const canary = "canary-c0ffee-1234567890"
const bytes = Buffer.from(canary)
const forms = [canary, bytes.toString("hex"), bytes.toString("base64")]
const admin = newAdmin()
const { workspaceId } = admin
const stack = new AsyncDisposableStack()
const spans = new InMemorySpanExporter()
const logged: string[] = []
const keys = new Map([["k1", Buffer.alloc(32, 1)]])
let orders: Listening
let tools: Started

beforeAll(async () => {
  orders = stack.use(await listen(admin))
  const log = pino({ level: "trace" }, { write: (line: string) => void logged.push(line) })
  tools = stack.use(
    await startTools(undefined, undefined, [], {
      workspaceProviders: allowing([orders.address], { keyring: createKeyring(keys) }),
      runtime: { ...testRuntime("tools", spans), log },
    }),
  )
})
afterAll(() => stack.disposeAsync())

describe("credentials", () => {
  it("go with each call, and are told to nobody", async () => {
    const credentials = [{ name: "Authorization", value: `Bearer ${canary}` }]
    const { provider } = await add(tools, admin, orders.address, { credentials })
    expect(provider?.credentials.map(({ name }) => name)).toEqual(["authorization"])
    expect(orders.headers.at(-1)?.get("authorization")).toBe(`Bearer ${canary}`)
    const sent = orders.headers.length
    await execute(tools, await callOf(tools, "orders/look", text, admin))
    const after = orders.headers.slice(sent)
    expect(after.length).toBeGreaterThan(0)
    for (const headers of after) expect(headers.get("authorization")).toBe(`Bearer ${canary}`)
  })

  it("are in no answer, log, trace or row, also where the provider says them", async () => {
    orders.provider.answer = () => result({ ok: true, padding: `you said Bearer ${canary}` })
    const echoed = await execute(tools, await callOf(tools, "orders/create", text, admin))
    expect(echoed.execution?.outcome).toMatchObject({
      value: { padding: "you said [redacted]" },
    })
    orders.provider.answer = () => {
      throw new ConnectError(`no ${canary}`, Code.InvalidArgument)
    }
    const failed = await execute(tools, await callOf(tools, "orders/create", text, admin))
    expect(failed.execution?.outcome).toMatchObject({ value: { reason: "not_executed" } })
    orders.provider.answer = () => result({ ok: true })
    await until(() => spans.getFinishedSpans().some(({ name }) => name.includes("RefreshProvider")))
    const shown = [
      JSON.stringify([echoed, failed], (_, value) =>
        typeof value === "bigint" ? `${value}` : value,
      ),
      toJsonString(
        ListProvidersResponseSchema,
        await tools.providers.listProviders({ workspaceId }, actingAs(admin)),
      ),
      toJsonString(
        RegistryServiceListToolsResponseSchema,
        await tools.registry.listTools({ workspaceId }, actingAs(admin)),
      ),
      await everyRow(tools),
      logged.join(""),
      JSON.stringify(
        spans
          .getFinishedSpans()
          .map(({ name, attributes, events, status }) => ({ name, attributes, events, status })),
      ),
    ]
    const where = ["answers", "providers", "tools", "rows", "logs", "spans"]
    expect(logged.length).toBeGreaterThan(0)
    shown.forEach((one, index) => {
      const found = forms.filter((form) => one.includes(form))
      expect([where[index], found]).toEqual([where[index], []])
    })
  })

  it("answer a repeat of the request alike, and another value not", async () => {
    const request = {
      workspaceId,
      requestId: newId(),
      provider: "orders",
      setCredentials: [{ name: "x-key", value: "one value" }],
    }
    const first = await tools.providers.updateProvider(request, actingAs(admin))
    expect(await tools.providers.updateProvider(request, actingAs(admin))).toEqual(first)
    const other = { ...request, setCredentials: [{ name: "x-key", value: "another" }] }
    const refused = tools.providers.updateProvider(other, actingAs(admin))
    expect(await refused.catch(reasonOf)).toBe("REQUEST_ID_CONFLICT")
  })

  it("are used from then on when they are set anew, and no more when they are taken away", async () => {
    await set({ setCredentials: [{ name: "authorization", value: "Bearer second-value" }] })
    await execute(tools, await callOf(tools, "orders/look", text, admin))
    expect(orders.headers.at(-1)?.get("authorization")).toBe("Bearer second-value")
    await set({ removeCredentials: ["Authorization"] })
    await execute(tools, await callOf(tools, "orders/look", text, admin))
    expect(orders.headers.at(-1)?.get("authorization")).toBeNull()
    expect(orders.headers.at(-1)?.get("x-key")).toBe("one value")
  })

  it.each(["runwarden-identity", "host", "traceparent", "grpc-timeout", "content-type", "key-bin"])(
    "cannot be %s",
    async (name) => {
      const refused = set({ setCredentials: [{ name, value: "x" }] })
      expect(await refused.catch(reasonOf)).toBe("INVALID_REQUEST")
    },
  )

  it("are not taken where there is no key to keep them", async () => {
    await using poor = await startTools(undefined, undefined, [], {
      workspaceProviders: allowing([orders.address], { keyring: undefined }),
    })
    const credentials = [{ name: "authorization", value: canary }]
    const error = await add(poor, admin, orders.address, { credentials }).catch((e: unknown) => e)
    expect(reasonOf(error)).toBe("CREDENTIALS_UNAVAILABLE")
    expect(metadataOf(error).cause).toContain("TOOLS_CREDENTIAL_KEYS")
    expect((await add(poor, admin, orders.address)).provider?.error).toBe("")
  })
})

describe("credentials that do not open", () => {
  it.each([
    ["a flipped bit", "set_byte(sealed, 0, get_byte(sealed, 0) # 1)", "nonce"],
    ["another nonce", "sealed", "set_byte(nonce, 3, get_byte(nonce, 3) # 1)"],
  ])("by %s end the call, and nothing is sent", async (_, sealed, nonce) => {
    await set({ setCredentials: [{ name: "x-key", value: "a good value" }] })
    await tools.asWorker(
      workspaceId,
      `update provider_credentials set sealed = ${sealed}, nonce = ${nonce}`,
    )
    const sent = orders.provider.sendings.length
    const seen = orders.headers.length
    const other = await tools.replica()
    const call = await callOf(tools, "orders/look", text, admin)
    const { execution } = await execute({ execution: other }, call)
    expect(execution?.outcome).toMatchObject({
      case: "error",
      value: {
        reason: "not_executed",
        message: expect.stringContaining("x-key is not what was stored"),
      },
    })
    expect(orders.provider.sendings.length).toBe(sent)
    for (const headers of orders.headers.slice(seen)) expect(headers.get("x-key")).not.toBeNull()
  })

  it("from another provider's row end the call as well, and say so in the list", async () => {
    await add(tools, admin, orders.address, {
      name: "second",
      credentials: [{ name: "x-key", value: "of the second" }],
    })
    await set({ setCredentials: [{ name: "x-key", value: "of the first" }] })
    await tools.asWorker(
      workspaceId,
      `update provider_credentials c set sealed = o.sealed, nonce = o.nonce
       from provider_credentials o where o.provider_id <> c.provider_id and o.name = c.name`,
    )
    const seen = orders.headers.length
    await set({ setToolSettings: {} }) // another revision, which is read anew
    const { provider } = await refresh(tools, admin)
    expect(provider?.error).toBe("CREDENTIALS_UNAVAILABLE")
    for (const headers of orders.headers.slice(seen)) expect(headers.get("x-key")).not.toBeNull()
    await set({ setCredentials: [{ name: "x-key", value: "anew" }] })
    expect((await refresh(tools, admin)).provider?.error).toBe("")
  })
})

describe("a new key", () => {
  it("takes all that is under the old one, which is not needed then", async () => {
    const k2 = Buffer.alloc(32, 2)
    const both = createKeyring(new Map([["k2", k2], ...keys]))
    await set({ setCredentials: [{ name: "x-key", value: "kept through it all" }] })
    await tools.providers.deleteProvider(
      { workspaceId, requestId: newId(), provider: "second" },
      actingAs(admin),
    )
    const before = await uses(tools)
    expect(before).toMatchObject({ k1: { primary: true } })
    const runtime = testRuntime("tools")
    await using database = openDatabase(tools.database, { runtime, migrations: "" })
    await rotateAll(database, runtime, both, new AbortController().signal)
    await using renewed = await startTools(undefined, undefined, [], {
      workspaceProviders: allowing([orders.address], {
        keyring: createKeyring(new Map([["k2", k2]])),
      }),
      database: tools.database,
    })
    expect(await uses(renewed)).toEqual({
      k2: { configured: true, primary: true, count: before.k1?.count },
    })
    await execute(renewed, await callOf(renewed, "orders/look", text, admin))
    expect(orders.headers.at(-1)?.get("x-key")).toBe("kept through it all")
  })
})

const text = { text: "hello" }

async function set(change: {
  setCredentials?: { name: string; value: string }[]
  removeCredentials?: string[]
  setToolSettings?: Record<string, never>
}) {
  const request = { workspaceId, requestId: newId(), provider: "orders", ...change }
  await tools.providers.updateProvider(request, actingAs(admin))
}

async function uses({ providers }: Started) {
  const operator = { kind: "operator", workspaceId: "", actorId: "operator", role: 0 } as const
  const { keys } = await providers.listCredentialKeys({}, actingAs(operator))
  return Object.fromEntries(
    keys.map(({ keyId, configured, primary, credentialCount }) => [
      keyId,
      { configured, primary, count: Number(credentialCount) },
    ]),
  )
}

/** Everything that the database holds, as text. */
async function everyRow({ database }: Started): Promise<string> {
  await using worker = await connect(database.workerUrl)
  await worker.query(`set runwarden.workspace_ids = '{${workspaceId}}'`)
  await using app = await connect(database.appUrl)
  await app.query(`set runwarden.workspace_id = '${workspaceId}'`)
  const rows: unknown[] = []
  for (const connection of [worker, app]) {
    const tables = await connection.query<{ name: string }>(
      `select c.oid::regclass::text as name from pg_class c where c.relkind in ('r', 'p')
       and c.relnamespace in ('public'::regnamespace, 'runwarden'::regnamespace)
       and has_table_privilege(c.oid, 'select')`,
    )
    expect(tables.length).toBeGreaterThan(5)
    for (const { name } of tables) {
      rows.push(
        name,
        await connection.query(
          `select t::text, encode(convert_to(t::text, 'utf8'), 'escape') from ${name} t`,
        ),
      )
    }
  }
  return JSON.stringify(rows)
}
