import { type DescMethod, type DescService, getOption, hasOption } from "@bufbuild/protobuf"
import { http } from "../../gen/google/api/annotations_pb.ts"
import type { HttpRule } from "../../gen/google/api/http_pb.ts"
import { RunwardenError } from "../../mesh/errors.ts"

/** One REST path of an RPC, from its `google.api.http` annotation. */
export interface RestRoute {
  readonly httpMethod: string
  readonly method: DescMethod
  readonly segments: readonly Segment[]
  /** What follows the colon of a custom method such as `/runs/{run_id}:cancel`. */
  readonly verb: string | undefined
  /** `*`, the field that the body is, or empty where there is none. */
  readonly body: string
}

type Segment =
  | { readonly kind: "literal"; readonly text: string }
  | { readonly kind: "field"; readonly field: string }
  | { readonly kind: "rest"; readonly field: string }

export type RestMatch =
  | {
      readonly kind: "found"
      readonly route: RestRoute
      readonly variables: ReadonlyMap<string, string>
    }
  | { readonly kind: "wrong-method"; readonly allowed: readonly string[] }
  | { readonly kind: "none" }

/** All REST paths of the services' RPCs, the more specific ones first. */
export function restRoutes(services: Iterable<DescService>): readonly RestRoute[] {
  const routes = [...services].flatMap((service) => service.methods.flatMap(routesOf))
  return routes.sort((left, right) => fieldCount(left) - fieldCount(right))
}

/** The route of a request's path, which stands without its query. */
export function matchRoute(
  routes: readonly RestRoute[],
  httpMethod: string,
  path: string,
): RestMatch {
  const allowed = new Set<string>()
  for (const isVerbWanted of [true, false]) {
    for (const route of routes) {
      if ((route.verb !== undefined) !== isVerbWanted) continue
      const variables = matchPath(route, path)
      if (variables === undefined) continue
      if (route.httpMethod === httpMethod) return { kind: "found", route, variables }
      allowed.add(route.httpMethod)
    }
  }
  return allowed.size > 0 ? { kind: "wrong-method", allowed: [...allowed] } : { kind: "none" }
}

function routesOf(method: DescMethod): readonly RestRoute[] {
  if (!hasOption(method, http)) return []
  const rule = getOption(method, http)
  return [rule, ...rule.additionalBindings].map((each) => toRoute(method, each))
}

function toRoute(method: DescMethod, rule: HttpRule): RestRoute {
  const { pattern } = rule
  if (pattern.case === undefined || pattern.case === "custom" || rule.responseBody !== "") {
    throw new Error(`${method.parent.typeName}/${method.name}: an unsupported HTTP rule`)
  }
  const { path, verb } = splitVerb(pattern.value)
  return {
    httpMethod: pattern.case.toUpperCase(),
    method,
    segments: path.split("/").slice(1).map(toSegment),
    verb,
    body: rule.body,
  }
}

function splitVerb(path: string): { readonly path: string; readonly verb: string | undefined } {
  const colon = path.lastIndexOf(":")
  if (colon < path.lastIndexOf("/")) return { path, verb: undefined }
  return { path: path.slice(0, colon), verb: path.slice(colon + 1) }
}

function toSegment(text: string): Segment {
  if (!text.startsWith("{")) return { kind: "literal", text }
  const [, field, pattern] = /^\{([\w.]+)(?:=(\*\*?))?\}$/.exec(text) ?? []
  if (field === undefined) throw new Error(`an unsupported path template: ${text}`)
  return { kind: pattern === "**" ? "rest" : "field", field }
}

function fieldCount(route: RestRoute): number {
  return route.segments.filter((segment) => segment.kind !== "literal").length
}

function matchPath(route: RestRoute, path: string): ReadonlyMap<string, string> | undefined {
  let target = path
  if (route.verb !== undefined) {
    if (!path.endsWith(`:${route.verb}`)) return undefined
    target = path.slice(0, -(route.verb.length + 1))
  }
  const parts = target.split("/").slice(1)
  const variables = new Map<string, string>()
  for (const [index, segment] of route.segments.entries()) {
    const part = parts[index]
    if (part === undefined || part === "") return undefined
    if (segment.kind === "rest") {
      const rest = parts.slice(index).map((each) => decode(each, segment.field))
      return variables.set(segment.field, rest.join("/"))
    }
    if (segment.kind === "field") variables.set(segment.field, decode(part, segment.field))
    else if (segment.text !== part) return undefined
  }
  return parts.length === route.segments.length ? variables : undefined
}

function decode(part: string, field: string): string {
  try {
    return decodeURIComponent(part)
  } catch (error) {
    const cause = `${field} is not percent-encoded UTF-8`
    throw new RunwardenError("MALFORMED_REQUEST", { cause, field }, { cause: error })
  }
}
