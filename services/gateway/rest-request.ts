import {
  type DescField,
  type DescMessage,
  fromJson,
  type JsonObject,
  type JsonValue,
  type Message,
  ScalarType,
} from "@bufbuild/protobuf"
import { readJsonText } from "../../mesh/edge-input.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { fieldsOfType } from "../../mesh/parse-error.ts"
import type { RestRoute } from "./rest-route.ts"

/** A REST request, after its path was matched. */
export interface RestInput {
  readonly variables: ReadonlyMap<string, string>
  readonly query: URLSearchParams
  readonly body: Uint8Array
}

/**
 * Builds the request message of a REST call from path, query and body. Throws MALFORMED_REQUEST that
 * names the parameter or field: nothing that the contract does not know is passed over.
 */
export function readRequest(route: RestRoute, input: RestInput): Message {
  const schema = route.method.input
  const json = readBody(route, schema, input.body)
  for (const [name, texts] of grouped(input.query)) setQuery(json, route, schema, name, texts)
  for (const [path, text] of input.variables) setVariable(json, schema, path, text)
  try {
    return fromJson(schema, json, { ignoreUnknownFields: false })
  } catch (error) {
    throw unreadable(error, schema, json)
  }
}

/** Reads a query. Throws MALFORMED_REQUEST for bytes that `URLSearchParams` would replace. */
export function readQuery(query: string): URLSearchParams {
  for (const pair of query.split("&")) {
    try {
      decodeURIComponent(pair)
    } catch (error) {
      const name = /^[\w.]*/.exec(pair)?.[0] ?? ""
      throw malformed(name, `query parameter "${name}" is not percent-encoded UTF-8`, error)
    }
  }
  return new URLSearchParams(query)
}

function readBody(route: RestRoute, schema: DescMessage, body: Uint8Array): JsonObject {
  if (route.body === "") {
    if (body.length > 0) throw malformed("body", "this request takes no body")
    return {}
  }
  const value = body.length === 0 ? {} : parse(body)
  if (route.body === "*") {
    if (isObject(value)) return value
    throw malformed("body", "the body must be a JSON object")
  }
  return { [fieldOf(schema, route.body).jsonName]: value }
}

function parse(body: Uint8Array): JsonValue {
  const text = readJsonText(body)
  try {
    return JSON.parse(text) as JsonValue
  } catch (error) {
    throw malformed("body", "the body is not JSON", error)
  }
}

function grouped(query: URLSearchParams): ReadonlyMap<string, readonly string[]> {
  return new Map([...new Set(query.keys())].map((name) => [name, query.getAll(name)]))
}

function setQuery(
  json: JsonObject,
  route: RestRoute,
  schema: DescMessage,
  name: string,
  texts: readonly string[],
): void {
  const path = route.body === "*" ? undefined : findPath(schema, name)
  const top = path?.[0]
  const field = path?.at(-1)
  const isBound =
    top !== undefined &&
    (top.name === route.body ||
      route.segments.some((segment) => segment.kind !== "literal" && segment.field === top.name))
  if (path === undefined || field === undefined || isBound) {
    throw malformed(name, `unknown query parameter "${name}"`)
  }
  const values = texts.map((text) => toJsonValue(field, text, name))
  if (field.fieldKind === "list") {
    setPath(json, path, values)
    return
  }
  const [value] = values
  if (value === undefined || values.length > 1) throw malformed(name, `${name} is given twice`)
  setPath(json, path, value)
}

function setVariable(json: JsonObject, schema: DescMessage, path: string, text: string): void {
  const fields = findPath(schema, path)
  const [top] = fields ?? []
  if (fields === undefined || top === undefined) throw new Error(`no field ${path}`)
  if (fields.length === 1) {
    for (const name of [top.name, top.jsonName]) {
      const given = json[name]
      if (given !== undefined && given !== text) {
        throw malformed(top.name, `${top.name} differs between path and body`)
      }
      delete json[name]
    }
  }
  setPath(json, fields, text)
}

/** The fields of a dotted path, by their Protobuf or their JSON names. */
function findPath(schema: DescMessage, path: string): readonly DescField[] | undefined {
  const fields: DescField[] = []
  let message: DescMessage | undefined = schema
  for (const part of path.split(".")) {
    const field: DescField | undefined = message?.fields.find(
      (each) => each.name === part || each.jsonName === part,
    )
    if (field === undefined) return undefined
    fields.push(field)
    message = field.fieldKind === "message" ? field.message : undefined
  }
  return fields
}

function setPath(json: JsonObject, path: readonly DescField[], value: JsonValue): void {
  let target = json
  for (const field of path.slice(0, -1)) {
    const next = target[field.jsonName]
    if (isObject(next)) {
      target = next
    } else {
      const made: JsonObject = {}
      target[field.jsonName] = made
      target = made
    }
  }
  const last = path.at(-1)
  if (last !== undefined) target[last.jsonName] = value
}

/** A query parameter as the JSON value of its field. Numbers pass as text, which JSON allows. */
function toJsonValue(field: DescField, text: string, name: string): JsonValue {
  if (field.fieldKind === "map" || isPlainMessage(field)) {
    throw malformed(name, `${name} cannot be a query parameter`)
  }
  if (field.enum !== undefined && /^-?\d+$/.test(text)) return Number(text)
  if (field.scalar !== ScalarType.BOOL) return text
  if (text === "true") return true
  if (text === "false") return false
  throw malformed(name, `${name} must be true or false`)
}

/** Timestamps, durations and the like have a text form; other messages have none. */
function isPlainMessage(field: DescField): boolean {
  const typeName = field.message?.typeName
  return typeName !== undefined && !textForms.has(typeName)
}

const textForms: ReadonlySet<string> = new Set([
  "google.protobuf.Timestamp",
  "google.protobuf.Duration",
  "google.protobuf.FieldMask",
])

function fieldOf(schema: DescMessage, name: string): DescField {
  const field = schema.fields.find((each) => each.name === name)
  if (field === undefined) throw new Error(`${schema.typeName} has no field ${name}`)
  return field
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}

/** What the parser says, with the name of the field and without that of the type. */
function unreadable(error: unknown, schema: DescMessage, json: JsonObject): RunwardenError {
  const text = error instanceof Error ? error.message : ""
  const [, kind, name = "", problem] =
    /^cannot decode (\w+) ([\w.]+) from JSON:? (.*)$/s.exec(text) ?? []
  const unknown = /^key "(.*)" is unknown$/s.exec(problem ?? "")?.[1]
  if (unknown !== undefined) return malformed(unknown, `unknown field "${unknown}"`, error)
  const field = fieldAt(kind, name, schema, json) ?? "body"
  return malformed(field, `${field}: ${shorten(problem ?? "not what the contract says")}`, error)
}

function fieldAt(
  kind: string | undefined,
  name: string,
  schema: DescMessage,
  json: JsonObject,
): string | undefined {
  switch (kind) {
    case "field":
      return name.split(".").at(-1)
    case "enum":
      return findUnknownEnum(schema, json)
    default:
      return fieldsOfType(schema, name).join(" or ") || undefined
  }
}

/** The parser names an enum but not its field. */
function findUnknownEnum(schema: DescMessage, json: JsonObject): string | undefined {
  for (const field of schema.fields) {
    const value = json[field.jsonName] ?? json[field.name]
    for (const item of Array.isArray(value) ? value : [value]) {
      if (field.message !== undefined && isObject(item)) {
        const below = findUnknownEnum(field.message, item)
        if (below !== undefined) return `${field.name}.${below}`
      }
      if (field.enum === undefined || item === undefined) continue
      if (!field.enum.values.some(({ name }) => name === item)) return field.name
    }
  }
  return undefined
}

function shorten(text: string): string {
  return text.length > 200 ? `${text.slice(0, 200)}…` : text
}

function malformed(field: string, cause: string, error?: unknown): RunwardenError {
  const violations = [{ field, description: cause }]
  return new RunwardenError("MALFORMED_REQUEST", { cause, field }, { violations, cause: error })
}
