import fc from "fast-check"
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { identityHeader, memberSubject } from "../../mesh/identity.ts"
import { testRuntime } from "../../mesh/testing.ts"
import { startGateway, type TestGateway, type TestWorkspace } from "./gateway-harness.ts"

let gateway: TestGateway
let ours: TestWorkspace
let theirs: TestWorkspace
let forged: string

beforeAll(async () => {
  gateway = await startGateway()
  ours = await gateway.addWorkspace()
  theirs = await gateway.addWorkspace()
  // The strongest forgery: a token that the mesh itself would take.
  const subject = memberSubject(theirs.workspaceId, theirs.actors.admin, Role.ADMIN)
  forged = await testRuntime("gateway").signer.sign(subject, "orchestrator")
})
afterAll(() => gateway[Symbol.asyncDispose]())
beforeEach(() => {
  gateway.calls.length = 0
})

const names = [
  identityHeader,
  "Runwarden-Identity",
  "runwarden-subject",
  "runwarden-caller",
  "x-runwarden-identity",
  "x-tenant-id",
  "x-workspace-id",
  "x-user-id",
  "x-actor-id",
  "x-role",
  "x-internal",
  "x-forwarded-for",
  "x-forwarded-user",
  "x-forwarded-host",
  "x-forwarded-access-token",
  "x-auth-request-user",
  "x-envoy-peer-metadata",
  "x-real-ip",
  "forwarded",
  "grpc-metadata-runwarden-identity",
  "grpc-metadata-authorization",
  "cookie",
  "proxy-authorization",
  "baggage",
]

const variants = fc.sample(
  fc.record({
    name: fc.constantFrom(...names),
    value: fc.constantFrom("token", "workspace", "actor", "admin", "true", "127.0.0.1", "twice"),
    upper: fc.boolean(),
    second: fc.constantFrom(...names),
  }),
  { seed: 17, numRuns: 200 },
)

function headersOf({ name, value, upper, second }: (typeof variants)[number]) {
  const texts: Readonly<Record<string, string>> = {
    token: forged,
    workspace: theirs.workspaceId,
    actor: theirs.actors.admin,
    admin: "ROLE_ADMIN",
    twice: `${forged}, ${forged}`,
  }
  const text = texts[value] ?? value
  return { [upper ? name.toUpperCase() : name]: text, [second]: text }
}

async function inBatches<T>(items: readonly T[], work: (item: T) => Promise<void>) {
  for (let start = 0; start < items.length; start += 10) {
    await Promise.all(items.slice(start, start + 10).map(work))
  }
}

test("200 forged headers open no door and go no further", async () => {
  const path = "/runwarden.orchestrator.v1.RunService/ListRuns"
  const accepted: unknown[] = []
  await inBatches(variants, async (variant) => {
    const headers = headersOf(variant)
    const foreign = { body: { workspaceId: theirs.workspaceId }, headers }
    const rest = `/v1/workspaces/${theirs.workspaceId}/runs`
    const answers = await Promise.all([
      gateway.call(path, foreign),
      gateway.call(path, { ...foreign, key: ours.keys.viewer }),
      gateway.call(rest, { headers }),
      gateway.call(rest, { headers, key: ours.keys.viewer }),
    ])
    const statuses = answers.map((answer) => answer.status)
    if (`${statuses}` !== "401,403,401,403") accepted.push([headers, statuses])
  })
  expect(accepted).toEqual([])
  expect(gateway.calls).toEqual([])
}, 60_000)

test("beside a key of one's own they change nothing: the next hop has no header of theirs", async () => {
  const { workspaceId } = ours
  await inBatches(variants, async (variant) => {
    const headers = headersOf(variant)
    const path = "/runwarden.orchestrator.v1.RunService/ListRuns"
    const connect = { body: { workspaceId }, headers, key: ours.keys.viewer }
    const rest = { headers, key: ours.keys.viewer }
    expect((await gateway.call(path, connect)).status).toBe(200)
    expect((await gateway.call(`/v1/workspaces/${workspaceId}/runs`, rest)).status).toBe(200)
  })
  expect(gateway.calls).toHaveLength(2 * variants.length)
  for (const { subject, header } of gateway.calls) {
    expect([...header]).toEqual([])
    expect(subject).toEqual(memberSubject(workspaceId, ours.actors.viewer, Role.VIEWER))
  }
}, 60_000)

test("nothing of an upstream's headers and trailers reaches the outside", async () => {
  const answer = await gateway.call(`/v1/workspaces/${ours.workspaceId}/runs`, {
    key: ours.keys.viewer,
  })
  expect([...answer.headers.keys()].filter((name) => name.startsWith("x-internal"))).toEqual([])
})
