import type { Format } from "ajv"
import { fullFormats } from "ajv-formats/dist/formats.js"
import type { SchemaMeter } from "./meter.ts"

/**
 * A text that is longer has no format. Some of the expressions look at a text more than once for
 * each of its characters; at this length none takes long.
 */
export const maxFormatLength = 2_048

const texts = [
  ...["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"],
  ...["uri", "uri-reference", "uri-template", "json-pointer", "relative-json-pointer", "regex"],
  ...["iso-time", "iso-date-time", "json-pointer-uri-fragment", "byte"],
] as const

/** Those of OpenAPI that are about numbers, or say only how a value is stored or shown. */
const others = {
  int32: fullFormats.int32,
  int64: fullFormats.int64,
  float: true,
  double: true,
  password: true,
  binary: true,
} as const

const tests: ReadonlyMap<string, (text: string) => boolean> = new Map([
  ...texts.map((name) => [name, testOf(name)] as const),
  // The expression that Ajv has for it may run away.
  ["url", testOf("uri")],
])

/** Whether a text is held to a format. */
export function isEnforcedFormat(name: string): boolean {
  return tests.has(name)
}

export function isKnownFormat(name: string): boolean {
  return tests.has(name) || Object.hasOwn(others, name)
}

/** The formats for one schema, whose looks are paid for. */
export function formatsOf(meter: SchemaMeter): Record<string, Format | true> {
  const metered = [...tests].map(([name, test]): [string, Format] => [
    name,
    (text: string) => {
      meter.spend(Math.min(text.length, maxFormatLength) / 8)
      return text.length <= maxFormatLength && test(text)
    },
  ])
  return { ...Object.fromEntries(metered), ...others }
}

function testOf(name: (typeof texts)[number]): (text: string) => boolean {
  const format: unknown = fullFormats[name]
  const test =
    typeof format === "object" && format !== null && "validate" in format ? format.validate : format
  if (test instanceof RegExp) return (text) => test.test(text)
  if (typeof test === "function") return (text) => test(text) === true
  throw new Error(`the format ${name} has no test`)
}
