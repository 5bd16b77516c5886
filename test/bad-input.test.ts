// Every public RPC × every door of the gateway × every way to break a request that its descriptor
// tells of: a typed error that names the field, nothing of ours in its words, and nothing changed.
import { type DescMethod, getOption, type JsonObject, type JsonValue } from "@bufbuild/protobuf"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { http } from "../gen/google/api/annotations_pb.ts"
import { readMaxBytes } from "../mesh/server-limits.ts"
import { loadServices, publicMethods, shortName } from "./descriptors.ts"
import { type DoorAnswer, type Doors, openDoors } from "./doors.ts"
import { jsonOf, type Malformation, malformedBinary, malformedJson } from "./malformations.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"
import { type Population, populate, snapshot } from "./population.ts"
import { sampleRequest } from "./sample-requests.ts"

const services = await loadServices()
const methods = publicMethods(services).map((method) => [shortName(method), method] as const)

/** What no answer may hold: stacks, SQL and the names of types. */
const leaks =
  /\bat \S+ \(|\.[jt]s:\d|node_modules|node:internal|\bselect \w+ from\b|\binsert into\b|\bpg_|[a-z]Error\b|SQLSTATE|runwarden\.[a-z]+\.v1|google\.protobuf\./

let mesh: TestMesh
let ours: TestWorkspace
let own: Population
let doors: Doors

beforeAll(async () => {
  mesh = await startTestMesh({
    env: {
      TELEMETRY_ALERT_P2_MODERATION_BLOCK_RATE_MIN_SAMPLE: "1",
      TELEMETRY_ALERT_DEBOUNCE_MS: "10",
    },
  })
  ours = await mesh.addWorkspace()
  own = await populate(mesh, ours)
  doors = openDoors(mesh.url, ours.admin.apiKey)
}, 60_000)
afterAll(async () => {
  doors?.[Symbol.dispose]()
  await mesh?.[Symbol.asyncDispose]()
})

describe.each(methods)("%s", (_, method) => {
  const sample = () => sampleRequest(method, ours.workspaceId, own)
  const valid = () => jsonOf(method.input, sample())

  test("Connect with JSON", async () => {
    const broken = [
      ...malformedJson(method.input, valid()),
      { ...oversized(method), body: JSON.stringify(valid()) + " ".repeat(oversize(method)) },
    ]
    expect(await faults(broken, (body) => doors.connectJson(method, body))).toEqual([])
  })

  test("Connect with Protobuf, and gRPC", async () => {
    const padding = Buffer.alloc(oversize(method))
    padding.set([0xa2, 0x1f])
    const broken = [
      ...malformedBinary(method.input, sample()),
      { ...oversized(method), body: padding },
    ]
    const bytes = (body: string | Uint8Array) => Buffer.from(body)
    expect(await faults(broken, (body) => doors.connectBinary(method, bytes(body)))).toEqual([])
    expect(await faults(broken, (body) => doors.grpc(method, bytes(body)))).toEqual([])
  })

  const route = restRouteOf(method)

  test(`REST, ${route.httpMethod}`, async () => {
    const { path, rest, variables } = splitRequest(route, valid())
    if (route.body === "*") {
      const broken = [
        ...malformedJson(method.input, rest, variables),
        { ...oversized(method), body: JSON.stringify(rest) + " ".repeat(oversize(method)) },
      ]
      const send = (body: string | Uint8Array) => doors.rest(route.httpMethod, path, body)
      expect(await faults(broken, send)).toEqual([])
    } else {
      const broken = malformedQueries(rest)
      const send = (query: string | Uint8Array) => doors.rest(route.httpMethod, `${path}?${query}`)
      expect(await faults(broken, send)).toEqual([])
      const withBody = await doors.rest("DELETE", `${path}`, "{}")
      if (route.httpMethod === "DELETE") expect(withBody.reason).toBe("MALFORMED_REQUEST")
    }
    for (const name of variables) {
      for (const bad of ["a%00b", "%ff", "%ed%a0%80", "%zz"]) {
        const { path: badPath } = splitRequest(route, { ...rest, ...valid(), [name]: "@" })
        const answer = await doors.rest(route.httpMethod, badPath.replace("%40", bad))
        expect([name, bad, ...judge(answer, { reasons: refusals, field: name })]).toEqual([
          name,
          bad,
        ])
      }
    }
  })
})

test("nothing has changed", async () => {
  expect(await snapshot(mesh, ours)).toEqual(own.snapshot)
})

test("the process lives", async () => {
  expect((await fetch(`${mesh.url}/healthz`)).status).toBe(200)
})

const refusals = ["MALFORMED_REQUEST", "INVALID_REQUEST", "NOT_A_MEMBER"]

/** What is wrong with the answers to broken requests, in words; empty where all is well. */
async function faults(
  broken: readonly Malformation[],
  send: (body: string | Uint8Array) => Promise<DoorAnswer>,
): Promise<string[]> {
  const found: string[] = []
  for (const each of broken) {
    const answer = await send(each.body).catch((error: unknown) => `${error}`)
    const wrong = typeof answer === "string" ? [answer] : judge(answer, each)
    found.push(...wrong.map((fault) => `${each.name}: ${fault}`))
  }
  return found
}

function judge(
  answer: DoorAnswer,
  { reasons, field }: Pick<Malformation, "reasons" | "field">,
): string[] {
  const { reason, fields, text } = answer
  if (reason === undefined) return [`accepted: ${text.slice(0, 200)}`]
  const found: string[] = []
  if (!reasons.includes(reason)) found.push(`${reason}: ${text.slice(0, 200)}`)
  if (answer.domain !== "runwarden") found.push(`domain ${answer.domain}`)
  if (field !== undefined && !fields.join().includes(field)) {
    found.push(`names ${JSON.stringify(fields)}: ${text.slice(0, 200)}`)
  }
  const leak = leaks.exec(text)
  if (leak !== null) found.push(`says ${leak[0]}: ${text.slice(0, 400)}`)
  return found
}

function oversize(method: DescMethod): number {
  const isDocument = /(Create|Update|Ingest)Document$/.test(method.name)
  return (isDocument ? 2 * 1024 * 1024 : readMaxBytes) + 1
}

function oversized(_: DescMethod): Omit<Malformation, "body"> {
  return { name: "too large", reasons: ["REQUEST_TOO_LARGE"] }
}

/** The path of an RPC, read from its annotation and not by the code under test. */
interface RestRoute {
  readonly httpMethod: string
  readonly template: string
  readonly body: string
}

function restRouteOf(method: DescMethod): RestRoute {
  const { pattern, body } = getOption(method, http)
  if (pattern.case === undefined || pattern.case === "custom") {
    throw new Error(`${shortName(method)} has no path`)
  }
  return { httpMethod: pattern.case.toUpperCase(), template: pattern.value, body }
}

/** The path of a request, and what of it is left for body or query. */
function splitRequest({ template }: RestRoute, json: JsonObject) {
  const rest = { ...json }
  const variables = new Set<string>()
  const path = template.replaceAll(/\{(\w+)\}/g, (_, field: string) => {
    variables.add(field)
    delete rest[field]
    return encodeURIComponent(`${json[field] ?? ""}`)
  })
  return { path, rest, variables }
}

function malformedQueries(rest: JsonObject): Malformation[] {
  const valid = Object.entries(rest).flatMap(([name, value]) =>
    (Array.isArray(value) ? value : [value]).map(
      (item: JsonValue) => `${name}=${encodeURIComponent(`${item}`)}`,
    ),
  )
  const broken = (name: string, part: string, field: string): Malformation => ({
    name,
    body: [...valid.filter((each) => !each.startsWith(`${field}=`)), part].join("&"),
    reasons: ["MALFORMED_REQUEST"],
    field,
  })
  return [
    broken("unknown parameter", "no_such_field=1", "no_such_field"),
    broken("a polluting parameter", "__proto__=1", "__proto__"),
    broken("a parameter of no UTF-8", "no_such_field=%ff", "no_such_field"),
    ...Object.entries(rest).flatMap(([name, value]) =>
      typeof value === "string"
        ? [
            broken(`${name}: twice`, `${name}=a&${name}=b`, name),
            broken(`${name}: NUL`, `${name}=a%00b`, name),
            broken(`${name}: no UTF-8`, `${name}=a%ff`, name),
          ]
        : [],
    ),
  ]
}
