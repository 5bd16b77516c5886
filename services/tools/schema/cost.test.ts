/** Schemas and values that would take forever: each check ends, by the steps that it may take. */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { describe, expect, test } from "vitest"
import { compileSchema, faultIn } from "./checker.ts"
import { maxFormatLength } from "./format.ts"

const tooMany = [{ pointer: "", description: "takes too many steps to check against the schema" }]
/** Of CPU time, which other processes do not take. A tenth of it is usual. */
const mostMs = 800

function of(schema: JsonObject, more: JsonObject = {}): JsonObject {
  return { type: "object", properties: { a: schema }, ...more }
}

function doubling(keyword: string): JsonObject {
  const levels = Array.from({ length: 25 }, (_, i) => {
    const next = { $ref: `#/$defs/d${i + 1}` }
    return [`d${i}`, { [keyword]: [next, next] }]
  })
  return of({ $ref: "#/$defs/d0" }, { $defs: { ...Object.fromEntries(levels), d25: {} } })
}

function times<T>(length: number, make: (index: number) => T): T[] {
  return Array.from({ length }, (_, index) => make(index))
}

let nested: JsonValue = null
for (let level = 0; level < 20_000; level++) nested = { a: nested }
const chain = Object.fromEntries(
  times(100, (i) => [`r${i}`, i === 99 ? {} : { $ref: `#/$defs/r${i + 1}` }]),
)
const overlapping = times(150, (i) => [`^a.*${i}$`, { type: "string" }])

const stopped: readonly [string, JsonObject, JsonValue][] = [
  ["references that double", doubling("allOf"), 1],
  ["alternatives that double", doubling("oneOf"), 1],
  ["a value nested deeper than the stack", of({ $ref: "#" }), nested],
  [
    "a long chain of references for many items",
    of({ items: { $ref: "#/$defs/r0" } }, { $defs: chain }),
    times(5_000, () => 1),
  ],
  [
    "hundreds of alternatives for thousands of items",
    of({ items: { not: { anyOf: times(450, (i) => ({ const: i })) } } }),
    times(4_000, () => "no"),
  ],
  [
    "lengths of a long text, again and again",
    of({ items: { allOf: times(100, () => ({ maxLength: 1e6 })) } }),
    times(10, () => "x".repeat(200_000)),
  ],
  [
    "a pattern of many states on a long text",
    of({ pattern: "(.*)(.*)(.*)(.*)[^x]{900}" }),
    "x".repeat(200_000),
  ],
  [
    "many patterns for many names",
    of({ patternProperties: Object.fromEntries(overlapping) }),
    Object.fromEntries(times(20_000, (i) => [`a${i}x`, "a"])),
  ],
  [
    "numbers with hundreds of digits",
    of({ items: { multipleOf: 1e-300 } }),
    times(20_000, () => 1e300),
  ],
  [
    "what hundreds of alternatives have seen",
    of({ anyOf: times(400, () => ({ additionalProperties: true })), unevaluatedProperties: false }),
    Object.fromEntries(times(5_000, (i) => [`p${i}`, i])),
  ],
]

describe("a check that takes too long ends, and the value is refused", () => {
  test.each(stopped)("%s", (_, schema, value) => {
    expect(faultIn(schema)).toBeUndefined()
    const check = compileSchema(schema)
    const began = process.cpuUsage()
    expect(check({ a: value })).toEqual(tooMany)
    expect(msSince(began)).toBeLessThan(mostMs)
  })
})

describe("what only looks costly is checked", () => {
  const fine: readonly [string, JsonObject, JsonValue, number][] = [
    ["tens of thousands of unique items", of({ uniqueItems: true }), times(40_000, (i) => i), 0],
    ["a pattern that backtracks", of({ pattern: "^(a+)+$" }), `${"a".repeat(20_000)}!`, 1],
    ["thousands of values in an enum", of({ enum: times(8_000, (i) => i) }), -1, 1],
    ["a long text without a pattern", of({ type: "string", minLength: 1 }), "x".repeat(250_000), 0],
    [
      "rows of a table",
      of({
        items: {
          type: "object",
          required: ["id"],
          properties: { id: { type: "string" }, n: { type: "integer" } },
          additionalProperties: false,
        },
      }),
      times(5_000, (i) => ({ id: `row-${i}`, n: i })),
      0,
    ],
  ]
  test.each(fine)("%s", (_, schema, value, faults) => {
    const began = process.cpuUsage()
    expect(compileSchema(schema)({ a: value })).toHaveLength(faults)
    expect(msSince(began)).toBeLessThan(mostMs)
  })
})

test.each([
  "date-time",
  "duration",
  "email",
  "hostname",
  "ipv6",
  "uri",
  "uri-reference",
  "uri-template",
  "json-pointer",
  "byte",
])("no text makes the format %s slow", (format) => {
  const check = compileSchema(of({ type: "string", format }))
  for (const unit of ["a", "a.", "-", "1", "[", "%41", "{a}", "{a", "/", "a@", "a,", "0:", "P1Y"]) {
    const value = `${unit.repeat(maxFormatLength)}`.slice(0, maxFormatLength - 1)
    const began = process.cpuUsage()
    check({ a: `${value}\u0000` })
    expect(msSince(began)).toBeLessThan(100)
  }
  expect(check({ a: "a".repeat(maxFormatLength + 1) })).toHaveLength(1)
})

test("a large schema is read in a bounded time", () => {
  const properties = Object.fromEntries(
    times(490, (i) => [`p${i}`, { type: "string", minLength: 1 }]),
  )
  const began = process.cpuUsage()
  expect(faultIn({ type: "object", properties })).toBeUndefined()
  expect(msSince(began)).toBeLessThan(mostMs)
})

function msSince(began: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(began)
  return (user + system) / 1_000
}
