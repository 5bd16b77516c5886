/**
 * `${name}` in the texts of a plan's arguments, filled in by `--set name=value`. Filling in works on
 * the parsed plan, so that no value can add a step or a field. `$${` stands for `${` itself.
 */
import type { JsonValue } from "@bufbuild/protobuf"
import { CliError } from "./failure.ts"

export type Values = ReadonlyMap<string, string>

const placeholder = /\$(\$\{)|\$\{([^}]*)\}/g

/** Reads `name=value` options. */
export function readValues(options: readonly string[]): Values {
  const values = new Map<string, string>()
  for (const option of options) {
    const at = option.indexOf("=")
    const name = option.slice(0, at)
    if (at < 1 || !isName(name)) {
      throw new CliError(`--set takes name=value, such as --set project=Apollo, not "${option}".`)
    }
    if (values.has(name)) throw new CliError(`--set gives ${name} twice.`)
    values.set(name, option.slice(at + 1))
  }
  return values
}

/** Fills every placeholder in, and notes the names in `used`. Throws for one without a value. */
export function fillIn(value: JsonValue, values: Values, used: Set<string>): JsonValue {
  if (typeof value === "string") return fillText(value, values, used)
  if (typeof value !== "object" || value === null) return value
  if (Array.isArray(value)) return value.map((item: JsonValue) => fillIn(item, values, used))
  return Object.fromEntries(
    Object.entries<JsonValue>(value).map(([key, item]) => [key, fillIn(item, values, used)]),
  )
}

function fillText(text: string, values: Values, used: Set<string>): string {
  return text.replace(placeholder, (all: string, escaped: string | undefined, name = "") => {
    if (escaped !== undefined) return escaped
    if (!isName(name)) return all
    const value = values.get(name)
    if (value === undefined)
      throw new CliError(`\${${name}} has no value; give it with --set ${name}=…`)
    used.add(name)
    return value
  })
}

function isName(text: string): boolean {
  return /^[A-Za-z_][A-Za-z0-9_]*$/.test(text)
}
