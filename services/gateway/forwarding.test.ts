import { globSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import type { DescMethod, DescService } from "@bufbuild/protobuf"
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest"
import { Exposure, Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { newId } from "../../mesh/ids.ts"
import { accessRuleOf } from "../../mesh/interceptors.ts"
import { methodName } from "../../mesh/method-chain.ts"
import { mintKey } from "./api-key.ts"
import { isForwarded, publicPart, publicServices, upstreamOf } from "./catalog.ts"
import {
  errorInfo,
  openStream,
  reasonIn,
  startGateway,
  type TestGateway,
  type TestWorkspace,
} from "./gateway-harness.ts"

let gateway: TestGateway
let ours: TestWorkspace
let theirs: TestWorkspace

beforeAll(async () => {
  gateway = await startGateway()
  ours = await gateway.addWorkspace()
  theirs = await gateway.addWorkspace()
})
afterAll(() => gateway[Symbol.asyncDispose]())
beforeEach(() => {
  gateway.calls.length = 0
  delete gateway.script.unary
})

const methods = publicServices.flatMap((service) => publicPart(service).methods)
const publicMethods = methods.filter((each) => accessRuleOf(each).exposure === Exposure.PUBLIC)
const forwarded = publicMethods.filter((method) => upstreamOf(method.parent) !== "gateway")
const unary = publicMethods.filter((method) => method.methodKind === "unary")

function connect(method: DescMethod, body: object, key?: string, headers = {}) {
  const isStream = method.methodKind !== "unary"
  expect(isStream).toBe(false)
  return gateway.call(`/${methodName(method)}`, {
    body,
    headers,
    ...(key === undefined ? {} : { key }),
  })
}

async function collect<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

test("every service that is generated and has a method for the outside is in the catalog", async () => {
  const folder = join(import.meta.dirname, "../../gen/runwarden")
  const missing: string[] = []
  for (const file of globSync("**/*_service_pb.ts", { cwd: folder })) {
    const module = (await import(pathToFileURL(join(folder, file)).href)) as Record<string, unknown>
    for (const value of Object.values(module)) {
      const service = value as DescService
      if (service?.kind !== "service" || !service.methods.some(isForwarded)) continue
      if (!publicServices.includes(service)) missing.push(service.typeName)
    }
  }
  expect(missing).toEqual([])
})

describe.each(forwarded.map((method) => [methodName(method), method] as const))(
  "%s",
  (name, method) => {
    test("is forwarded for the workspace's own member, signed by role", async () => {
      if (method.methodKind === "unary") {
        const answer = await connect(method, { workspaceId: ours.workspaceId }, ours.keys.admin)
        expect(answer.status).toBe(200)
      } else {
        const body = { workspaceId: ours.workspaceId }
        const frames = openStream(`${gateway.url}/${name}`, ours.keys.admin, body)
        expect(await collect(frames)).toEqual([{ isEnd: true, json: expect.anything() }])
      }
      expect(gateway.calls).toHaveLength(1)
      expect(gateway.calls[0]).toMatchObject({
        upstream: upstreamOf(method.parent),
        method: name,
        message: { workspaceId: ours.workspaceId },
        subject: {
          kind: "member",
          workspaceId: ours.workspaceId,
          actorId: ours.actors.admin,
          role: Role.ADMIN,
        },
      })
    })
  },
)

describe.each(unary.map((method) => [methodName(method), method] as const))("%s", (_, method) => {
  test("refuses whoever may not", async () => {
    const mine = { workspaceId: ours.workspaceId }
    const none = newId()
    const anonymous = await connect(method, mine)
    expect([anonymous.status, reasonIn(anonymous)]).toEqual([401, "UNAUTHENTICATED"])
    const foreign = await connect(method, { workspaceId: theirs.workspaceId }, ours.keys.admin)
    const absent = await connect(method, { workspaceId: none }, ours.keys.admin)
    const operator = await connect(method, mine, gateway.operatorKey)
    for (const answer of [foreign, absent, operator]) {
      expect([answer.status, reasonIn(answer)]).toEqual([403, "NOT_A_MEMBER"])
    }
    expect(withoutId(foreign)).toEqual(withoutId(absent))
    for (const [value, description] of [
      ["", "value is required"],
      ["no-uuid", "must be a valid UUID"],
    ] as const) {
      const malformed = await connect(method, { workspaceId: value }, ours.keys.admin)
      expect(malformed.status).toBe(400)
      expect(errorInfo(malformed)).toMatchObject({
        reason: "INVALID_REQUEST",
        metadata: { field: "workspace_id" },
      })
      expect(malformed.text).toContain(description)
    }
    await refusesLowerRoles(method)
    expect(gateway.calls).toEqual([])
  })
})

async function refusesLowerRoles(method: DescMethod): Promise<void> {
  const { role } = accessRuleOf(method)
  const names = ["viewer", "member", "approver", "admin"] as const
  for (const name of names.slice(0, role - 1)) {
    const answer = await connect(method, { workspaceId: ours.workspaceId }, ours.keys[name])
    expect(answer.status).toBe(403)
    expect(errorInfo(answer)).toMatchObject({
      reason: "ROLE_TOO_LOW",
      metadata: { role: name, required_role: names[role - 1] },
    })
  }
}

/** The answer without the id that the request itself named, in all its forms. */
function withoutId({ status, json }: { status: number; json: Record<string, unknown> }): unknown {
  const details = json.details as readonly { type: string; debug: object }[]
  return {
    status,
    code: json.code,
    message: json.message,
    details: details.map(({ type, debug }) => ({
      type,
      debug: JSON.parse(JSON.stringify(debug).replace(/[0-9a-f-]{36}/g, "<id>")),
    })),
  }
}

test("unknown, malformed, revoked and absent keys get one answer, byte for byte", async () => {
  const path = `/v1/workspaces/${ours.workspaceId}`
  const good = mintKey().secret
  const bodies = new Set<string>()
  for (const headers of [
    {},
    { authorization: "Bearer" },
    { authorization: "Basic YTpi" },
    { authorization: `Bearer ${good}` },
    { authorization: `Bearer ${good.slice(0, -1)}!` },
    { authorization: `Bearer ${ours.keys.admin} x` },
    { authorization: `Bearer ${"x".repeat(5_000)}` },
    { authorization: `Basic ${ours.keys.admin}`, "x-api-key": ours.keys.admin },
    { authorization: `Bearer ${ours.keys.admin}`, "x-api-key": ours.keys.viewer },
    { "x-api-key": `${ours.keys.admin}, ${ours.keys.admin}` },
    { "x-api-key": "" },
  ] as const) {
    const answer = await gateway.call(path, { headers })
    expect(answer.status).toBe(401)
    bodies.add(answer.text)
  }
  expect(bodies.size).toBe(1)
})

test("x-api-key does as well, and the scheme is not case-sensitive", async () => {
  const path = `/v1/workspaces/${ours.workspaceId}`
  const direct = await gateway.call(path, { headers: { "x-api-key": ours.keys.viewer } })
  const lower = await gateway.call(path, {
    headers: { authorization: `bearer ${ours.keys.viewer}` },
  })
  expect([direct.status, lower.status]).toEqual([200, 200])
})

test("internal methods get the very answer of unknown ones, with and without a key", async () => {
  const internal = [
    "runwarden.gateway.v1.MembershipService/CheckMembership",
    "runwarden.tools.v1.ExecutionService/Execute",
    "runwarden.moderation.v1.ModerationService/Moderate",
    "runwarden.telemetry.v1.EventService/RecordEvents",
    "runwarden.tools.v1.ToolProviderService/ExecuteTool",
    "grpc.health.v1.Health/Check",
  ]
  for (const key of [undefined, ours.keys.admin, gateway.operatorKey]) {
    for (const name of internal) {
      const unknown = name.replace(/\w$/, "X")
      const init = {
        body: { workspaceId: ours.workspaceId },
        ...(key === undefined ? {} : { key }),
      }
      const answer = await gateway.call(`/${name}`, init)
      const other = await gateway.call(`/${unknown}`, init)
      expect([answer.status, reasonIn(answer)]).toEqual([404, "METHOD_NOT_FOUND"])
      expect(answer.json.message).toBe(String(other.json.message).replace(unknown, name))
      expect(other.status).toBe(404)
    }
  }
  expect(gateway.calls).toEqual([])
})

test("only an operator creates workspaces; an operator has none", async () => {
  const body = { requestId: newId(), displayName: "New", adminDisplayName: "Ann" }
  const path = "/v1/workspaces"
  const asAdmin = await gateway.call(path, { key: ours.keys.admin, body })
  expect([asAdmin.status, reasonIn(asAdmin)]).toEqual([403, "ROLE_TOO_LOW"])
  const asOperator = await gateway.call(path, { key: gateway.operatorKey, body })
  expect(asOperator.status).toBe(200)
  const listed = await gateway.call(path, { key: gateway.operatorKey })
  expect(listed.json).toEqual({ memberships: [], nextPageToken: "" })
})
