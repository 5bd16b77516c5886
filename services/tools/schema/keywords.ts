/**
 * Keywords of Ajv whose cost grows with the value, or faster: made anew, so that each look is paid
 * for and values are compared as the specification says.
 */
import type { JsonValue } from "@bufbuild/protobuf"
import type { Ajv, ErrorObject, FuncKeywordDefinition } from "ajv"
import { membersKeyword } from "./limits.ts"
import type { SchemaMeter } from "./meter.ts"
import { isMultiple, keyOf, lengthOf } from "./value.ts"

/** What is wrong with a value; undefined where it fits. */
type Look = (value: JsonValue) => string | undefined

type Compiled = ReturnType<NonNullable<FuncKeywordDefinition["compile"]>>

const maxShown = 300

export function replaceKeywords(ajv: Ajv, meter: SchemaMeter): void {
  ajv.addKeyword({
    keyword: membersKeyword,
    errors: false,
    validate: (_: true, value: JsonValue) => {
      if (typeof value === "object" && value !== null) meter.spend(Object.keys(value).length / 4)
      return true
    },
  })
  replace(ajv, "enum", (allowed: readonly JsonValue[]) => {
    const keys = new Set(allowed.map((one) => keyOf(one)))
    const message = `must be equal to one of the allowed values: ${shown(allowed)}`
    return (value) => (keys.has(keyOf(value, meter)) ? undefined : message)
  })
  replace(ajv, "const", (expected: JsonValue) => {
    const key = keyOf(expected)
    const message = `must be equal to constant: ${shown([expected])}`
    return (value) => (keyOf(value, meter) === key ? undefined : message)
  })
  replace(ajv, "uniqueItems", (isAsked: boolean) => (value) => {
    if (!isAsked || !Array.isArray(value)) return undefined
    const first = new Map<string, number>()
    for (const [index, item] of value.entries()) {
      const key = keyOf(item, meter)
      const other = first.get(key)
      if (other !== undefined) {
        return `must NOT have duplicate items (items ${other} and ${index} are identical)`
      }
      first.set(key, index)
    }
    return undefined
  })
  replace(ajv, "multipleOf", (unit: number) => (value) => {
    const isFine = typeof value !== "number" || isMultiple(value, unit, meter)
    return isFine ? undefined : `must be multiple of ${unit}`
  })
  replaceLength(ajv, "minLength", meter, (length, least) => length >= least, "fewer")
  replaceLength(ajv, "maxLength", meter, (length, most) => length <= most, "more")
}

function replaceLength(
  ajv: Ajv,
  keyword: string,
  meter: SchemaMeter,
  test: (length: number, limit: number) => boolean,
  than: string,
): void {
  replace(ajv, keyword, (limit: number) => {
    const message = `must NOT have ${than} than ${limit} characters`
    return (value) => {
      if (typeof value !== "string") return undefined
      meter.spend(value.length / 32)
      return test(lengthOf(value), limit) ? undefined : message
    }
  })
}

function replace<Expected>(ajv: Ajv, keyword: string, read: (expected: Expected) => Look): void {
  ajv.removeKeyword(keyword)
  ajv.addKeyword({
    keyword,
    errors: true,
    compile: (expected: Expected) => {
      const look = read(expected)
      const validate: Compiled = (value: JsonValue) => {
        const message = look(value)
        if (message === undefined) return true
        const fault: Partial<ErrorObject> = { keyword, message, params: {} }
        validate.errors = [fault]
        return false
      }
      return validate
    },
  })
}

function shown(values: readonly JsonValue[]): string {
  return values
    .map((value) => JSON.stringify(value))
    .join(", ")
    .slice(0, maxShown)
}
