import { afterAll, describe, expect, it } from "vitest"
import { ProviderState } from "../../../gen/runwarden/tools/v1/provider_pb.ts"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { metadataOf, reasonOf } from "../../../mesh/errors.ts"
import { definition } from "../../../mesh/fixtures/fake-provider.ts"
import { createVerifier } from "../../../mesh/hop-tokens.ts"
import { actingAs, type Subject, serviceNames } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { testKeys, until } from "../../../mesh/testing.ts"
import { callOf, execute, type Started, startTools } from "../tools-harness.ts"
import { add, allowing, listen, newAdmin, refresh, tokenIn } from "./own-harness.ts"

const stack = new AsyncDisposableStack()
afterAll(() => stack.disposeAsync())

const ours = newAdmin()
const theirs = newAdmin()
const orders = stack.use(await listen(ours))
const tools = stack.use(
  await startTools(undefined, undefined, [], {
    workspaceProviders: allowing([orders.address], { maxPerWorkspace: 3 }),
  }),
)

describe("a workspace's own provider", () => {
  it("is asked when it is added, and all that it says of its tools' risk does not count", async () => {
    const { provider, newVersions } = await add(tools, ours, orders.address, {
      toolSettings: { look: { riskClass: RiskClass.LOW, effect: Effect.READ } },
    })
    expect(provider).toMatchObject({ name: "orders", state: ProviderState.READY, toolCount: 3 })
    expect(newVersions).toEqual([
      "orders/create@1.0.0+high.unsafe",
      "orders/fire@1.0.0+high.unsafe",
      "orders/look@1.0.0+low.read",
    ])
    const shown = await listed(tools, ours)
    expect(shown).toEqual([
      ["orders/create", RiskClass.HIGH, Effect.UNSAFE],
      ["orders/fire", RiskClass.HIGH, Effect.UNSAFE],
      ["orders/look", RiskClass.LOW, Effect.READ],
    ])
  })

  it("runs calls, as the service's own version, with a token for it alone", async () => {
    const { execution } = await execute(tools, await callOf(tools, "orders/create", text, ours))
    expect(execution?.outcome).toMatchObject({ case: "result", value: { ok: true } })
    const [sent] = orders.provider.sendings
    expect(sent?.request).toMatchObject({ tool: "create", version: "1.0.0" })
    expect(sent?.caller).toMatchObject({ workspaceId: ours.workspaceId, actorId: ours.actorId })
    const token = tokenIn(orders.headers.at(-1))
    for (const name of serviceNames) {
      const verified = createVerifier(name, testKeys.trusted).verify(token)
      expect([name, await verified.catch(reasonOf)]).toEqual([name, "UNAUTHENTICATED"])
    }
  })

  it("is nothing to another workspace: not in lists, not by name, not by digest", async () => {
    expect(await listed(tools, theirs)).toEqual([])
    const { workspaceId } = theirs
    const { providers } = await tools.providers.listProviders({ workspaceId }, actingAs(theirs))
    expect(providers.map(({ name }) => name)).toEqual(["projects", "retrieval"])
    for (const name of ["orders/create", "orders/look"]) {
      const resolved = callOf(tools, name, text, theirs)
      expect(await resolved.catch(reasonOf)).toBe("UNKNOWN_TOOL")
    }
    const call = await callOf(tools, "orders/create", text, ours)
    const stolen = { ...call.request, workspaceId }
    const sent = orders.provider.sendings.length
    expect(await execute(tools, { subject: theirs, request: stolen }).catch(reasonOf)).toBe(
      "UNKNOWN_TOOL",
    )
    const { definitionDigest } = call.request
    const checked = tools.execution.validateArguments(
      { workspaceId, definitionDigest, arguments: text },
      actingAs(theirs),
    )
    expect(await checked.catch(reasonOf)).toBe("UNKNOWN_TOOL")
    expect(orders.provider.sendings.length).toBe(sent)
    for (const act of [
      () => refresh(tools, theirs),
      () => remove(tools, theirs),
      () => tools.providers.getProvider({ workspaceId, provider: "orders" }, actingAs(theirs)),
    ]) {
      const error = await act().catch((caught: unknown) => caught)
      expect(reasonOf(error)).toBe("NOT_FOUND")
      expect(metadataOf(error)).toEqual({ resource: "provider", id: "orders" })
    }
  })

  it("may have the name that another workspace's has, and is another provider", async () => {
    await add(tools, theirs, orders.address) // whose token it refuses
    const { workspaceId } = theirs
    const { provider } = await tools.providers.getProvider(
      { workspaceId, provider: "orders" },
      actingAs(theirs),
    )
    expect(provider).toMatchObject({ state: ProviderState.UNAVAILABLE, error: "UNAUTHENTICATED" })
    expect(await listed(tools, theirs)).toEqual([])
    await remove(tools, theirs)
  })

  it.each(["projects", "pr0jects", "tools", "orders", "0rders", "gateway"])(
    "does not take the name %s",
    async (name) => {
      const added = add(tools, ours, orders.address, { name })
      const reason = await added.catch(reasonOf)
      expect(["ALREADY_EXISTS", "INVALID_REQUEST"]).toContain(reason)
    },
  )

  it("stands nowhere but where the deployment allows", async () => {
    for (const address of ["127.0.0.1:1", "10.0.0.1:443", "localhost:443", "[::1]:8443"]) {
      const error = await add(tools, ours, address, { name: "inside" }).catch((e: unknown) => e)
      expect([address, reasonOf(error)]).toEqual([address, "INVALID_REQUEST"])
    }
  })

  it("is one of so many", async () => {
    await add(tools, ours, orders.address, { name: "second" })
    await add(tools, ours, orders.address, { name: "third" })
    const error = await add(tools, ours, orders.address, { name: "fourth" }).catch(
      (e: unknown) => e,
    )
    expect(reasonOf(error)).toBe("LIMIT_EXCEEDED")
    await remove(tools, ours, "second")
    await remove(tools, ours, "third")
  })
})

describe("what changes", () => {
  it("waits to be activated; another setting is another version", async () => {
    const before = await callOf(tools, "orders/create", text, ours)
    await say(tools, ours, "create", { riskClass: RiskClass.MEDIUM, effect: Effect.KEYED })
    const { newVersions } = await refresh(tools, ours)
    expect(newVersions).toEqual(["orders/create@1.0.0+medium.keyed"])
    // The version that was in force is offered no more, and the other one nobody has looked at.
    expect(await callOf(tools, "orders/create", text, ours).catch(reasonOf)).toBe("UNKNOWN_TOOL")
    await activate(tools, ours, "orders/create", "1.0.0+medium.keyed")
    const after = await callOf(tools, "orders/create", text, ours)
    expect(after.request.definitionDigest).not.toBe(before.request.definitionDigest)
    const { execution } = await execute(tools, after)
    expect(execution?.outcome.case).toBe("result")
  })

  it("is not taken under a version that is known", async () => {
    orders.provider.tools = orders.provider.tools.map((tool) =>
      tool.name === "fire" ? definition("fire", { description: "Fires twice." }) : tool,
    )
    const { provider } = await refresh(tools, ours)
    expect(provider?.refusedTools).toMatchObject([{ name: "fire" }])
    expect((await listed(tools, ours)).map(([name]) => name)).toContain("orders/fire")
  })
})

describe("a provider that is removed", () => {
  it("is sent nothing more, and what was sent stays", async () => {
    const call = await callOf(tools, "orders/look", text, ours)
    const sent = await execute(tools, await callOf(tools, "orders/create", text, ours))
    const before = orders.provider.sendings.length
    await remove(tools, ours)
    expect(await listed(tools, ours)).toEqual([])
    expect(await callOf(tools, "orders/look", text, ours).catch(reasonOf)).toBe("UNKNOWN_TOOL")
    const { execution } = await execute(tools, call)
    expect(execution?.outcome).toMatchObject({
      case: "error",
      value: {
        reason: "not_executed",
        message: "The workspace has removed the provider orders.",
        metadata: { applied: "false" },
      },
    })
    expect(orders.provider.sendings.length).toBe(before)
    expect(sent.execution?.outcome.case).toBe("result")
  })

  it("is a stranger when it is added again: nothing of before counts", async () => {
    const { provider } = await add(tools, ours, orders.address)
    expect(provider?.providerId).not.toBe("")
    const resolved = await callOf(tools, "orders/create", text, ours)
    const found = await tools.registry.getTool(
      { workspaceId: ours.workspaceId, name: "orders/create" },
      actingAs(ours),
    )
    expect(found.tool?.definition).toMatchObject({
      version: "1.0.0+high.unsafe",
      providerId: provider?.providerId,
    })
    const { versions } = await tools.registry.listToolVersions(
      { workspaceId: ours.workspaceId, name: "orders/create" },
      actingAs(ours),
    )
    expect(versions.map(({ tool }) => tool?.definitionDigest)).toEqual([
      resolved.request.definitionDigest,
    ])
  })

  it("fails calls that were pinned to the one before it", async () => {
    const before = await callOf(tools, "orders/create", text, ours)
    await remove(tools, ours)
    await add(tools, ours, orders.address)
    const sent = orders.provider.sendings.length
    const { execution } = await execute(tools, before)
    expect(execution?.outcome).toMatchObject({ case: "error", value: { reason: "not_executed" } })
    expect(orders.provider.sendings.length).toBe(sent)
  })
})

describe("replicas", () => {
  it("know what another one was told, and share the asking", async () => {
    const other = await tools.replica()
    const name = "orders/create"
    const { workspaceId } = ours
    const { tool } = await other.resolveTool({ workspaceId, name }, actingAs(ours))
    const call = await callOf(tools, name, text, ours)
    expect(tool?.definitionDigest).toBe(call.request.definitionDigest)
    const { execution } = await execute({ execution: other }, call)
    expect(execution?.outcome.case).toBe("result")
    await remove(tools, ours)
    const late = { ...call, request: { ...call.request, idempotencyKey: newId() } }
    await until(async () => {
      const again = { ...late, request: { ...late.request, idempotencyKey: newId() } }
      const { execution } = await execute({ execution: other }, again)
      return execution?.outcome.case === "error"
    })
  })
})

const text = { text: "hello" }

async function listed({ registry }: Started, who: Subject) {
  const { workspaceId } = who
  const { tools } = await registry.listTools({ workspaceId }, actingAs(who))
  return tools
    .filter(({ provider }) => provider !== "projects" && provider !== "retrieval")
    .map(({ fullName, definition }) => [fullName, definition?.riskClass, definition?.effect])
}

async function remove({ providers }: Started, who: Subject, provider = "orders"): Promise<void> {
  const { workspaceId } = who
  await providers.deleteProvider({ workspaceId, requestId: newId(), provider }, actingAs(who))
}

async function say(
  { providers }: Started,
  who: Subject,
  tool: string,
  setting: { riskClass: RiskClass; effect: Effect },
): Promise<void> {
  const { workspaceId } = who
  const setToolSettings = { [tool]: setting }
  await providers.updateProvider(
    { workspaceId, requestId: newId(), provider: "orders", setToolSettings },
    actingAs(who),
  )
}

async function activate({ registry }: Started, who: Subject, name: string, version: string) {
  const { workspaceId } = who
  const { versions } = await registry.listToolVersions({ workspaceId, name }, actingAs(who))
  const found = versions.find(({ tool }) => tool?.definition?.version === version)
  await registry.activateToolVersion(
    {
      workspaceId,
      requestId: newId(),
      name,
      version,
      definitionDigest: found?.tool?.definitionDigest ?? "",
    },
    actingAs(who),
  )
}
