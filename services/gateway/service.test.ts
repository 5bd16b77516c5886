import { once } from "node:events"
import { connect } from "node:http2"
import { setTimeout as sleep } from "node:timers/promises"
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { testClient, testRuntime, until } from "../../mesh/testing.ts"
import { activeTraceId } from "../../mesh/tracing.ts"
import { openStream, reasonIn, startGateway, type TestGateway } from "./gateway-harness.ts"
import { createGateway } from "./service.ts"

let gateway: TestGateway

beforeAll(async () => {
  gateway = await startGateway()
})
afterAll(() => gateway[Symbol.asyncDispose]())
beforeEach(() => {
  gateway.calls.length = 0
  delete gateway.script.unary
})

test("a client's trace goes on to the upstream, by REST and by Connect", async () => {
  const { workspaceId, keys } = await gateway.addWorkspace()
  const traceId = "4bf92f3577b34da6a3ce929d0e0e4736"
  const headers = { traceparent: `00-${traceId}-00f067aa0ba902b7-01` }
  const seen: string[] = []
  gateway.script.unary = () => {
    seen.push(activeTraceId())
    return {}
  }
  await gateway.call(`/v1/workspaces/${workspaceId}/runs`, { key: keys.viewer, headers })
  await gateway.call("/runwarden.orchestrator.v1.RunService/ListRuns", {
    key: keys.viewer,
    headers,
    body: { workspaceId },
  })
  await gateway.call(`/v1/workspaces/${workspaceId}/runs`, { key: keys.viewer })
  expect(seen.slice(0, 2)).toEqual([traceId, traceId])
  expect(seen[2]).toMatch(/^[0-9a-f]{32}$/)
  expect(seen[2]).not.toBe(traceId)
})

test("REST is served over HTTP/2 too", async () => {
  const { workspaceId, keys } = await gateway.addWorkspace()
  const session = connect(gateway.url)
  const path = `/v1/workspaces/${workspaceId}/members`
  const stream = session.request({ ":path": path, authorization: `Bearer ${keys.viewer}` })
  const [headers] = (await once(stream, "response")) as [Record<string, unknown>]
  let text = ""
  for await (const chunk of stream) text += String(chunk)
  expect(headers[":status"]).toBe(200)
  expect(JSON.parse(text)).toHaveProperty("members.length", 4)
  session.close()
})

test("another replica knows of a removed member within the cache's time", async () => {
  await using other = createGateway(
    {
      database: gateway.database,
      listen: "127.0.0.1:0",
      membershipCacheMs: 400,
      operatorKeyHash: undefined,
    },
    {
      runtime: testRuntime("gateway"),
      upstream: () => {
        throw new Error("no upstream is needed")
      },
    },
  )
  await other.start(AbortSignal.timeout(20_000))
  const { workspaceId, actors, keys } = await gateway.addWorkspace()
  const ask = async () => {
    const headers = { "x-api-key": keys.viewer }
    return (await fetch(`${other.url}/v1/workspaces/${workspaceId}`, { headers })).status
  }
  expect(await ask()).toBe(200)
  await testClient(MembershipService, gateway.target).removeMember(
    { workspaceId, requestId: newId(), actorId: actors.viewer },
    actingAs(memberSubject(workspaceId, actors.admin, Role.ADMIN)),
  )
  const removedAt = Date.now()
  await until(async () => (await ask()) === 401, { timeoutMs: 2_000 })
  expect(Date.now() - removedAt).toBeLessThan(800)
})

test("stops in time with streams open, and tells their readers why", async () => {
  const own = await startGateway()
  const { workspaceId, keys } = await own.addWorkspace()
  own.script.stream = async function* (_, { signal }) {
    while (signal?.aborted !== true) {
      yield {}
      await sleep(20)
    }
  }
  const body = { workspaceId, runId: newId() }
  const ends: unknown[] = []
  const connectStream = (async () => {
    const path = "/runwarden.orchestrator.v1.RunService/WatchRun"
    for await (const frame of openStream(`${own.url}${path}`, keys.viewer, body)) {
      if (frame.isEnd) ends.push(frame.json)
    }
  })()
  const restStream = own
    .call(`/v1/workspaces/${workspaceId}/runs/${body.runId}:watch`, { key: keys.viewer })
    .then(({ text }) => ends.push(JSON.parse(text.trimEnd().split("\n").at(-1) ?? "")))
  await until(() => own.calls.length === 2)
  const startedAt = Date.now()
  await own[Symbol.asyncDispose]()
  expect(Date.now() - startedAt).toBeLessThan(3_000)
  await Promise.all([connectStream, restStream])
  expect(ends).toHaveLength(2)
  for (const end of ends) expect(end).toMatchObject({ error: { code: "unavailable" } })
  for (const { signal } of own.calls) expect(signal?.aborted).toBe(true)
})

test("an operator may choose the id of a workspace", async () => {
  const workspaceId = newId()
  const body = { workspaceId, requestId: newId(), displayName: "Chosen", adminDisplayName: "Ann" }
  const made = await gateway.call("/v1/workspaces", { key: gateway.operatorKey, body })
  expect(made.json).toMatchObject({ workspace: { workspaceId }, admin: { role: "ROLE_ADMIN" } })
  const again = { ...body, requestId: newId() }
  const taken = await gateway.call("/v1/workspaces", { key: gateway.operatorKey, body: again })
  expect([taken.status, reasonIn(taken)]).toEqual([409, "ALREADY_EXISTS"])
})
