import { connect as connectSocket } from "node:net"
import fc from "fast-check"
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { RunwardenError } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import {
  errorInfo,
  reasonIn,
  startGateway,
  type TestGateway,
  type TestWorkspace,
} from "./gateway-harness.ts"

let gateway: TestGateway
let ours: TestWorkspace
let base: string

beforeAll(async () => {
  gateway = await startGateway()
  ours = await gateway.addWorkspace()
  base = `/v1/workspaces/${ours.workspaceId}`
})
afterAll(() => gateway[Symbol.asyncDispose]())
beforeEach(() => {
  gateway.calls.length = 0
  delete gateway.script.unary
})

const asAdmin = () => ({ key: ours.keys.admin })

test("a workspace's members by REST alone, from adding to removing", async () => {
  const body = {
    request_id: newId(),
    display_name: "Zoë",
    role: "ROLE_VIEWER",
    kind: "ACTOR_KIND_USER",
  }
  const added = await gateway.call(`${base}/members`, { ...asAdmin(), body })
  expect(added.status).toBe(200)
  const { actorId, etag } = added.json.member as { actorId: string; etag: string }
  const path = `${base}/members/${actorId}`
  const changed = await gateway.call(path, {
    ...asAdmin(),
    method: "PATCH",
    body: { requestId: newId(), role: "ROLE_APPROVER", etag },
  })
  expect(changed.json).toMatchObject({ member: { role: "ROLE_APPROVER", displayName: "Zoë" } })
  const removed = await gateway.call(`${path}?request_id=${newId()}`, {
    ...asAdmin(),
    method: "DELETE",
  })
  expect(removed.json).toEqual({ revokedKeys: 0 })
  expect((await gateway.call(path, asAdmin())).status).toBe(404)
})

test("the short paths take their workspace from the query", async () => {
  for (const path of ["/ai/runs", "/ai/tool-calls", "/metrics/ai", "/alerts/ai"]) {
    const none = await gateway.call(path, asAdmin())
    expect(errorInfo(none)).toMatchObject({
      reason: "INVALID_REQUEST",
      metadata: { field: "workspace_id" },
    })
    const other = await gateway.call(`${path}?workspace_id=${newId()}`, asAdmin())
    expect([other.status, reasonIn(other)]).toEqual([403, "NOT_A_MEMBER"])
    const own = await gateway.call(`${path}?workspaceId=${ours.workspaceId}`, asAdmin())
    expect([path, own.status]).toEqual([path, 200])
  }
})

test("health needs no key, and says which service is away", async () => {
  expect((await gateway.call("/healthz")).json).toEqual({ status: "ok" })
  gateway.script.unary = (_, { upstream }) => {
    if (upstream !== "retrieval") return {}
    throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: upstream })
  }
  await new Promise((resolve) => setTimeout(resolve, 1_100))
  const answer = await gateway.call("/healthz")
  expect([answer.status, answer.json]).toEqual([
    503,
    { status: "unavailable", away: ["retrieval"] },
  ])
  const before = gateway.calls.length
  await Promise.all(Array.from({ length: 50 }, () => gateway.call("/healthz")))
  // Six upstreams, asked once or, where the clock has moved on, twice; not fifty times.
  expect(gateway.calls.length - before).toBeLessThanOrEqual(12)
  await new Promise((resolve) => setTimeout(resolve, 1_100))
})

test("the root says what this is", async () => {
  const answer = await gateway.call("/")
  expect([answer.status, answer.text.split("\n")[0]]).toEqual([200, "Runwarden gateway."])
})

describe("what is not right is named, with its place, and goes nowhere", () => {
  const uuid = "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51"
  const member = { request_id: uuid, display_name: "x", role: 1, kind: 1 }
  const cases: readonly (readonly [string, string, unknown, number, string, RegExp])[] = [
    ["an unknown field", "", { ...member, colour: 1 }, 400, "MALFORMED_REQUEST", /colour/],
    ["a wrong type", "", { ...member, display_name: [] }, 400, "MALFORMED_REQUEST", /display_name/],
    ["broken JSON", "", "{", 400, "MALFORMED_REQUEST", /JSON/],
    ["no object", "", "7", 400, "MALFORMED_REQUEST", /object/],
    ["NUL", "", { ...member, display_name: "a\0" }, 400, "MALFORMED_REQUEST", /display_name/],
    [
      "too long",
      "",
      { ...member, display_name: "x".repeat(201) },
      400,
      "INVALID_REQUEST",
      /display_name/,
    ],
    ["a missing id", "", { ...member, request_id: "" }, 400, "INVALID_REQUEST", /request_id/],
    [
      "too large",
      "",
      { ...member, display_name: "x".repeat(300_000) },
      413,
      "REQUEST_TOO_LARGE",
      /262144/,
    ],
    ["an unknown role", "", { ...member, role: 99 }, 400, "INVALID_REQUEST", /role/],
    ["a query", "?x=1", member, 400, "MALFORMED_REQUEST", /"x"/],
  ]

  test.each(cases)("%s", async (_, query, body, status, reason, text) => {
    const answer = await gateway.call(`${base}/members${query}`, { ...asAdmin(), body })
    expect([answer.status, reasonIn(answer)]).toEqual([status, reason])
    expect(answer.text).toMatch(text)
    expect(answer.text).not.toMatch(/runwarden\.gateway|node:|\.ts\b/)
  })

  test.each(cases.filter(([, query]) => query === ""))("%s, over Connect", async (...each) => {
    const [, , body, status, reason] = each
    const path = "/runwarden.gateway.v1.MembershipService/AddMember"
    const own = typeof body === "object" ? { ...body, workspace_id: ours.workspaceId } : body
    const answer = await gateway.call(path, { ...asAdmin(), body: own })
    expect([answer.status, reasonIn(answer)]).toEqual([status === 413 ? 429 : status, reason])
  })

  test("documents may be larger than anything else, up to 2 MB", async () => {
    const body = { request_id: uuid, title: "t", content: "x".repeat(1_500_000) }
    const created = await gateway.call(`${base}/documents`, { ...asAdmin(), body })
    expect([created.status, gateway.calls.length]).toEqual([200, 1])
    const large = { ...body, content: "x".repeat(2_100_000) }
    const refused = await gateway.call(`${base}/documents`, { ...asAdmin(), body: large })
    expect([refused.status, reasonIn(refused)]).toEqual([413, "REQUEST_TOO_LARGE"])
  })

  test("unknown paths are 404 and wrong methods 405 with what is allowed", async () => {
    const unknown = await gateway.call("/v1/nothing", asAdmin())
    expect([unknown.status, reasonIn(unknown)]).toEqual([404, "METHOD_NOT_FOUND"])
    const wrong = await gateway.call(`${base}/members`, { ...asAdmin(), method: "PUT" })
    expect([wrong.status, wrong.headers.get("allow")?.split(", ").toSorted()]).toEqual([
      405,
      ["GET", "POST"],
    ])
  })

  test("a body of another type or compressed is refused", async () => {
    for (const headers of [{ "content-type": "text/xml" }, { "content-encoding": "gzip" }]) {
      const answer = await gateway.call(`${base}/members`, { ...asAdmin(), body: member, headers })
      expect([answer.status, reasonIn(answer)]).toEqual([400, "MALFORMED_REQUEST"])
    }
  })
})

test("nothing of a body is read before the key is", async () => {
  const { hostname, port } = new URL(gateway.url)
  const socket = connectSocket(Number(port), hostname)
  const answer = new Promise<string>((resolve) => socket.once("data", (data) => resolve(`${data}`)))
  socket.write(
    `POST ${base}/members HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 200000\r\n\r\n{`,
  )
  expect(await answer).toMatch(/^HTTP\/1.1 401 /)
  socket.destroy()
})

test("a body that says that it is too long is refused before it comes", async () => {
  const { hostname, port } = new URL(gateway.url)
  const socket = connectSocket(Number(port), hostname)
  const answer = new Promise<string>((resolve) => socket.once("data", (data) => resolve(`${data}`)))
  socket.write(
    `POST ${base}/members HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${ours.keys.admin}\r\ncontent-type: application/json\r\ncontent-length: 300000\r\n\r\n{`,
  )
  expect(await answer).toMatch(/^HTTP\/1.1 413 /)
  socket.destroy()
})

test("a body that does not say how long it is has the same limit", async () => {
  const chunk = new Uint8Array(64 * 1024).fill(0x20)
  const stop = new AbortController()
  async function* endless() {
    while (!stop.signal.aborted) yield chunk
  }
  const headers = { authorization: `Bearer ${ours.keys.admin}`, "content-type": "application/json" }
  const body = ReadableStream.from(endless())
  const init = { method: "POST", headers, body, duplex: "half" }
  const answer = await fetch(`${gateway.url}${base}/members`, init as RequestInit)
  expect([answer.status, await answer.text()]).toEqual([
    413,
    expect.stringContaining("REQUEST_TOO_LARGE"),
  ])
  stop.abort()
})

test("whatever is sent, the answer is typed and the gateway stays up", async () => {
  const paths = [
    `${base}/members`,
    `${base}/runs`,
    `${base}/projects`,
    `${base}/index:search`,
    "/v1/workspaces",
    "/runwarden.orchestrator.v1.RunService/StartRun",
  ]
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...paths),
      fc.oneof(
        fc.json({ maxDepth: 6 }),
        fc.string({ maxLength: 500 }),
        fc.nat(200).map((depth) => `${'{"plan":'.repeat(depth)}1${"}".repeat(depth)}`),
      ),
      async (path, body) => {
        const answer = await gateway.call(path, { ...asAdmin(), body })
        if (answer.status === 200) return
        expect(answer.status).toBeLessThan(500)
        expect(reasonIn(answer)).toMatch(/^[A-Z_]+$/)
      },
    ),
    { seed: 3, numRuns: 300 },
  )
  expect((await gateway.call("/healthz")).status).toBe(200)
}, 60_000)
