// What every RPC and every request of the contract must carry, read from the descriptors and from
// the sources: a forgotten rule fails here, not at a customer's.
import { globSync, readFileSync } from "node:fs"
import path from "node:path"
import {
  type DescField,
  type DescMessage,
  getOption,
  hasOption,
  isFieldSet,
} from "@bufbuild/protobuf"
import { MethodOptions_IdempotencyLevel, MethodOptionsSchema } from "@bufbuild/protobuf/wkt"
import { describe, expect, test } from "vitest"
import { field as fieldRules, oneof as oneofRules } from "../gen/buf/validate/validate_pb.ts"
import { http } from "../gen/google/api/annotations_pb.ts"
import { access, Exposure, IdKind, id_kind, Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { loadServices, shortName } from "./descriptors.ts"

const root = path.resolve(import.meta.dirname, "..")
const services = await loadServices()
const methods = services.flatMap((service) => service.methods)
const publicMethods = methods.filter(
  (method) => getOption(method, access).exposure === Exposure.PUBLIC,
)

test("there is a contract to check", () => {
  expect(services.length).toBeGreaterThanOrEqual(15)
  expect(publicMethods.length).toBeGreaterThanOrEqual(50)
})

describe.each(methods.map((method) => [shortName(method), method] as const))("%s", (_, method) => {
  test("says who may call it", () => {
    expect(hasOption(method, access)).toBe(true)
    const rule = getOption(method, access)
    expect(rule.exposure).not.toBe(Exposure.UNSPECIFIED)
    if (rule.exposure === Exposure.PUBLIC) expect(rule.role).not.toBe(Role.UNSPECIFIED)
    if (rule.exposure === Exposure.INTERNAL) expect(rule.callers.length).toBeGreaterThan(0)
  })

  test("says whether it may be repeated", () => {
    const { options } = method.proto
    const level = MethodOptionsSchema.field.idempotencyLevel
    expect(options !== undefined && isFieldSet(options, level)).toBe(true)
    const isRead = /^(Get|List|Search|Verify|Query|Watch|Check|Resolve|Validate|Test)/.test(
      method.name,
    )
    if (isRead) {
      expect(method.idempotency).toBe(MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS)
    }
  })

  test("has a request and an answer of its own, by its name", () => {
    expect(method.input.name).toMatch(new RegExp(`${method.name}Request$`))
    expect(method.output.name).toMatch(new RegExp(`${method.name}Response$`))
  })
})

describe.each(publicMethods.map((method) => [shortName(method), method] as const))(
  "public %s",
  (_, method) => {
    test("names the workspace in its first field", () => {
      const [first] = method.input.fields
      expect(first).toMatchObject({ name: "workspace_id", number: 1 })
      expect(first && getOption(first, id_kind)).toBe(IdKind.WORKSPACE)
    })

    test("has a REST path that binds the workspace", () => {
      const rule = getOption(method, http)
      expect(rule.pattern.case).toBeDefined()
      expect(String(rule.pattern.value)).toMatch(/^\/v1\/workspaces\/\{workspace_id\}/)
    })

    test("can be repeated by request_id where it changes something", () => {
      if (method.idempotency === MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS) return
      expect(method.input.field.requestId?.name).toBe("request_id")
    })

    test("bounds every text, list and number that a client can send", () => {
      expect(unbounded(method.input)).toEqual([])
    })

    test("pages where it lists", () => {
      if (!method.name.startsWith("List") || method.name === "ListProviders") return
      expect(Object.keys(method.input.field)).toEqual(
        expect.arrayContaining(["pageSize", "pageToken"]),
      )
      expect(Object.keys(method.output.field)).toContain("nextPageToken")
    })
  },
)

describe.each(globSync("proto/runwarden/**/*.proto", { cwd: root }).sort())("%s", (file) => {
  const lines = readFileSync(path.join(root, file), "utf8").split("\n")

  test("fits", () => {
    const isReasons = file.endsWith("error_reason.proto")
    expect(lines.length).toBeLessThanOrEqual(isReasons ? 600 : 270)
  })

  test("is explained", () => {
    const written = lines.filter((line) => line.trim() !== "")
    const comments = written.filter((line) => line.trim().startsWith("//"))
    expect(comments.length / written.length).toBeGreaterThan(0.2)
  })
})

test("no service has more than eight RPCs", () => {
  expect(services.filter((service) => service.methods.length > 8).map((it) => it.name)).toEqual([])
})

/** Fields without a rule that bounds them, by their path. Free JSON is bounded by the request. */
function unbounded(message: DescMessage, above = "", seen: readonly string[] = []): string[] {
  if (message.typeName.startsWith("google.") || seen.includes(message.typeName)) return []
  return message.fields.flatMap((field) => {
    const name = `${above}${field.name}`
    if (needsRule(field) && !hasRule(field)) return [name]
    const nested =
      field.fieldKind === "message" || field.fieldKind === "list" ? field.message : undefined
    return nested === undefined ? [] : unbounded(nested, `${name}.`, [...seen, message.typeName])
  })
}

function needsRule(field: DescField): boolean {
  if (field.fieldKind === "list" || field.fieldKind === "map") return true
  if (field.fieldKind === "enum") return true
  return field.fieldKind === "scalar" && isTextual(field)
}

function isTextual(field: DescField): boolean {
  // STRING and BYTES of google.protobuf.FieldDescriptorProto.Type.
  return field.fieldKind === "scalar" && (field.scalar === 9 || field.scalar === 12)
}

function hasRule(field: DescField): boolean {
  return (
    hasOption(field, fieldRules) ||
    (field.oneof !== undefined && hasOption(field.oneof, oneofRules) && !isTextual(field))
  )
}
