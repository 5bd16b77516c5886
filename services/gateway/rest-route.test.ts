import { expect, test } from "vitest"
import { publicPart, publicServices } from "./catalog.ts"
import { matchRoute, restRoutes } from "./rest-route.ts"

const routes = restRoutes(publicServices.map(publicPart))

function found(httpMethod: string, path: string) {
  const match = matchRoute(routes, httpMethod, path)
  if (match.kind !== "found") return match.kind
  const { method } = match.route
  return [`${method.parent.name}/${method.name}`, Object.fromEntries(match.variables)]
}

test("every public method has a REST path, and no two share one", () => {
  const methods = publicServices.flatMap((service) => publicPart(service).methods)
  for (const method of methods) expect(routes.some((route) => route.method === method)).toBe(true)
  const shapes = routes.map(
    ({ httpMethod, segments, verb }) =>
      `${httpMethod} ${segments.map((s) => (s.kind === "literal" ? s.text : "*")).join("/")}:${verb}`,
  )
  expect(new Set(shapes).size).toBe(shapes.length)
})

test("matches literals before variables, and custom verbs", () => {
  expect(found("GET", "/v1/workspaces")).toEqual(["WorkspaceService/ListWorkspaces", {}])
  expect(found("PATCH", "/v1/workspaces/w/members/a")).toEqual([
    "MembershipService/UpdateMember",
    { workspace_id: "w", actor_id: "a" },
  ])
  expect(found("POST", "/v1/workspaces/w/api-keys/k:revoke")).toEqual([
    "ApiKeyService/RevokeApiKey",
    { workspace_id: "w", key_id: "k" },
  ])
  expect(found("POST", "/v1/workspaces/w/index:search")).toEqual([
    "SearchService/Search",
    { workspace_id: "w" },
  ])
})

test("decodes variables once, slashes included", () => {
  expect(found("GET", "/v1/workspaces/w/tools/projects%2Fproject.create")).toEqual([
    "RegistryService/GetTool",
    { workspace_id: "w", name: "projects/project.create" },
  ])
  expect(() => found("GET", "/v1/workspaces/%ff")).toThrow(/workspace_id/)
})

test("tells a wrong method from an unknown path", () => {
  expect(matchRoute(routes, "PUT", "/v1/workspaces/w/members")).toEqual({
    kind: "wrong-method",
    allowed: expect.arrayContaining(["GET", "POST"]),
  })
  for (const path of ["/v1/workspaces/", "/v1//members", "/v1/workspaces/w/members/", "v1", ""]) {
    expect(matchRoute(routes, "GET", path).kind).toBe("none")
  }
})

test("the short paths of runs, tool calls, metrics and alerts are there", () => {
  expect(found("GET", "/ai/runs")).toEqual(["RunService/ListRuns", {}])
  expect(found("GET", "/ai/tool-calls")).toEqual(["ToolCallService/ListToolCalls", {}])
})
