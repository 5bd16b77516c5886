/** JSON values as JSON Schema compares them: by value, numbers by their amount, members unordered. */
import type { JsonValue } from "@bufbuild/protobuf"
import type { SchemaMeter } from "./meter.ts"

/** The same text for equal values, and for no others. Every member costs a step. */
export function keyOf(value: JsonValue, meter?: SchemaMeter): string {
  meter?.spend(1)
  if (typeof value === "string") {
    meter?.spend(value.length / 32)
    return JSON.stringify(value)
  }
  if (typeof value !== "object" || value === null) return JSON.stringify(value === 0 ? 0 : value)
  if (Array.isArray(value)) return `[${value.map((one) => keyOf(one, meter)).join()}]`
  const members = Object.keys(value).sort()
  return `{${members.map((name) => `${keyOf(name, meter)}:${keyOf(value[name] ?? null, meter)}`).join()}}`
}

/** Whether a number is a whole multiple of another, by their shortest decimal forms, exactly. */
export function isMultiple(value: number, of: number, meter?: SchemaMeter): boolean {
  const quotient = value / of
  if (Number.isSafeInteger(value) && Number.isSafeInteger(of)) return Number.isInteger(quotient)
  const [amount, scale] = decimal(value)
  const [unit, unitScale] = decimal(of)
  const shared = Math.max(scale, unitScale)
  meter?.spend(8 + Math.abs(Math.log10(Math.abs(value) + of)) / 4 + shared / 4)
  return (
    (amount * 10n ** BigInt(shared - scale)) % (unit * 10n ** BigInt(shared - unitScale)) === 0n
  )
}

/** A number as an integer and how many of its digits stand behind the point. */
function decimal(value: number): readonly [bigint, number] {
  const [mantissa = "0", exponent = "0"] = String(value).split("e")
  const [whole = "0", fraction = ""] = mantissa.split(".")
  const scale = fraction.length - Number(exponent)
  const digits = BigInt(whole + fraction)
  return scale >= 0 ? [digits, scale] : [digits * 10n ** BigInt(-scale), 0]
}

/** The length of a text in code points. */
export function lengthOf(text: string): number {
  let length = text.length
  for (let at = 1; at < text.length; at++) {
    const isPair = (text.charCodeAt(at - 1) & 0xfc00) === 0xd800
    if (isPair && (text.charCodeAt(at) & 0xfc00) === 0xdc00) length--
  }
  return length
}
