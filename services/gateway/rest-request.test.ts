import { expect, test } from "vitest"
import { publicPart, publicServices } from "./catalog.ts"
import { readRequest } from "./rest-request.ts"
import { matchRoute, restRoutes } from "./rest-route.ts"

const routes = restRoutes(publicServices.map(publicPart))
const workspaceId = "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51"
const members = `/v1/workspaces/${workspaceId}/members`

function read(httpMethod: string, path: string, body = "") {
  const [name = "", query = ""] = path.split("?")
  const match = matchRoute(routes, httpMethod, name)
  if (match.kind !== "found") throw new Error(match.kind)
  const { route, variables } = match
  return readRequest(route, {
    variables,
    query: new URLSearchParams(query),
    body: Buffer.from(body, "latin1"),
  })
}

test("reads path, query and body into one message", () => {
  expect(read("GET", `${members}?page_size=3&pageToken=x`)).toMatchObject({
    workspaceId,
    pageSize: 3,
    pageToken: "x",
  })
  const body = JSON.stringify({ display_name: "Ann", role: "ROLE_MEMBER", kind: 1 })
  expect(read("POST", members, body)).toMatchObject({
    workspaceId,
    displayName: "Ann",
    role: 2,
    kind: 1,
  })
  expect(read("DELETE", `${members}/a?request_id=b&etag=4`)).toMatchObject({
    actorId: "a",
    requestId: "b",
    etag: "4",
  })
})

test("reads enums by name and by number, and repeated parameters", () => {
  const runs = `/v1/workspaces/${workspaceId}/runs`
  const states = read("GET", `${runs}?states=RUN_STATE_FAILED&states=RUN_STATE_RUNNING`)
  expect(states).toHaveProperty("states", expect.objectContaining({ length: 2 }))
})

const bad: readonly [string, string, string, string, RegExp][] = [
  ["an unknown parameter", "GET", `${members}?pagesize=3`, "", /"pagesize"/],
  [
    "a parameter of the path",
    "GET",
    `${members}?workspace_id=${workspaceId}`,
    "",
    /"workspace_id"/,
  ],
  ["a parameter beside a body", "POST", `${members}?role=1`, "{}", /"role"/],
  [
    "a parameter twice",
    "GET",
    `${members}?page_size=3&page_size=4`,
    "",
    /page_size is given twice/,
  ],
  ["no number", "GET", `${members}?page_size=many`, "", /page_size/],
  ["an unknown field", "POST", members, '{"colour":"red"}', /"colour"/],
  ["a wrong type", "POST", members, '{"display_name":7}', /display_name/],
  ["an unknown enum value", "POST", members, '{"role":"ROLE_KING"}', /role/],
  ["no object", "POST", members, "[]", /JSON object/],
  ["no JSON", "POST", members, "{", /not JSON/],
  ["no UTF-8", "POST", members, '{"display_name":"\xff"}', /UTF-8/],
  ["a rounded integer", "POST", members, '{"kind":9007199254740993}', /kind.*as a string/],
  ["another id in the body", "POST", members, '{"workspaceId":"x"}', /workspace_id differs/],
  ["a field twice", "POST", members, '{"display_name":"a","displayName":"b"}', /display_name/],
  ["a body where none is", "GET", members, "{}", /no body/],
  ["a polluting key", "POST", members, '{"__proto__":{"role":4}}', /__proto__/],
]

test.each(bad)("refuses %s by name", (_, httpMethod, path, body, message) => {
  expect(() => read(httpMethod, path, body)).toThrow(
    expect.objectContaining({
      reason: "MALFORMED_REQUEST",
      message: expect.stringMatching(message),
    }),
  )
})

test("says no type names", () => {
  expect(() => read("POST", members, '{"display_name":7}')).not.toThrow(/runwarden\./)
})
