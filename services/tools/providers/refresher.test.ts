import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { connect, openDatabase } from "../../../mesh/database.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, testRuntime, until } from "../../../mesh/testing.ts"
import { callOf, type Started, startTools } from "../tools-harness.ts"
import { add, allowing, type Listening, listen, newAdmin } from "./own-harness.ts"
import { claimRefreshes, insertProvider } from "./provider-store.ts"

const admin = newAdmin()
const other = newAdmin()
const stack = new AsyncDisposableStack()
let quick: Listening
let tools: Started

beforeAll(async () => {
  quick = stack.use(await listen(admin))
  tools = stack.use(
    await startTools(undefined, undefined, [], {
      workspaceProviders: allowing([quick.address, "127.0.0.1:9"]),
    }),
  )
})
afterAll(() => stack.disposeAsync())

describe("a workspace's provider", () => {
  it("is asked when it is added, by whoever looks first, and not again while nobody uses it", async () => {
    const asked = quick.headers.length
    await tools.replica()
    await create("orders", quick.address)
    await until(async () => (await stateOf("orders"))?.refreshTime !== undefined)
    await until(async () => (await due()).length === 0)
    expect(quick.headers.length).toBe(asked + 1)
    // Several times as long as what is known may be old while it is used.
    const since = quick.headers.length
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    expect(quick.headers.length).toBe(since)
  })

  it("is asked again when it is used", async () => {
    const since = quick.headers.length
    const call = await callOf(tools, "orders/look", { text: "hello" }, admin)
    await until(async () => {
      const again = { ...call.request, idempotencyKey: newId(), runId: newId() }
      await tools.execution.execute(
        again,
        actingAs(admin, {
          call: { runId: again.runId, stepIndex: 0, digest: again.argumentsDigest },
        }),
      )
      const lists = quick.headers.length - since - quick.provider.sendings.length
      return lists > 0
    })
  })

  it("that is away is asked again, and holds up no other", async () => {
    await create("away", "127.0.0.1:9")
    await until(async () => (await stateOf("away"))?.error === "DEPENDENCY_UNAVAILABLE")
    await until(async () => (await due()).some(({ failures }) => failures > 0))
    const { provider } = await add(tools, admin, quick.address, { name: "third" })
    expect(provider?.attemptTime).toBeDefined()
  })
})

it("what is due is claimed once, and little of one workspace", async () => {
  const runtime = testRuntime("tools")
  await using idle = await testDatabase("tools")
  await using database = openDatabase(idle, { runtime, migrations: "" })
  for (const { workspaceId } of [admin, other]) {
    for (const name of ["one", "two", "three", "four"]) {
      const connection = { kind: "mcp_stdio", command: name } as const
      const provider = { name, looks: name, connection, settings: {} }
      await database.tenant(workspaceId, (tx) =>
        insertProvider(tx, { workspaceId, providerId: newId() }, provider),
      )
    }
  }
  const limits = { limit: 3, perWorkspace: 2, leaseMs: 60_000 }
  // While another replica is at what is due in one workspace, the rest is claimed without a wait.
  {
    await using replica = await connect(idle.workerUrl)
    await replica.query("begin")
    await replica.query(
      "select from provider_refreshes_due where workspace_id = $1::uuid for update",
      [admin.workspaceId],
    )
    const free = await claimRefreshes(database, { ...limits, leaseMs: 0 })
    expect(free.map((row) => row.workspace_id)).toEqual([other.workspaceId, other.workspaceId])
    await replica.query("rollback")
  }
  const claims = [
    ...(await Promise.all([claimRefreshes(database, limits), claimRefreshes(database, limits)])),
    await claimRefreshes(database, limits),
    await claimRefreshes(database, limits),
  ]
  const ids = claims.flat().map(({ provider_id }) => provider_id)
  expect(ids.length).toBe(8)
  expect(new Set(ids).size).toBe(8)
  for (const one of claims) {
    expect(one.length).toBeLessThanOrEqual(3)
    for (const { workspaceId } of [admin, other]) {
      expect(one.filter((row) => row.workspace_id === workspaceId).length).toBeLessThanOrEqual(2)
    }
  }
})

function at(address: string) {
  return {
    connection: { kind: { case: "grpc", value: { address, plaintext: true } } },
  } as const
}

async function create(name: string, address: string): Promise<void> {
  const { workspaceId } = admin
  await tools.providers.createProvider(
    { workspaceId, requestId: newId(), name, ...at(address) },
    actingAs(admin),
  )
}

async function stateOf(name: string) {
  const { workspaceId } = admin
  const { providers } = await tools.providers.listProviders({ workspaceId }, actingAs(admin))
  return providers.find((one) => one.name === name)
}

/** What somebody is to ask, now or later. */
async function due() {
  const runtime = testRuntime("tools")
  await using database = openDatabase(tools.database, { runtime, migrations: "" })
  return database.tenant(admin.workspaceId, (tx) =>
    tx.query<{ failures: number }>(
      "select failures from provider_refreshes_due where due_time is not null",
    ),
  )
}
