import type { DescMessage } from "@bufbuild/protobuf"

/** What a caller can use of a parser's message. */
export interface ParseFault {
  readonly cause: string
  /** The field or key that is wrong, where the parser says enough to tell. */
  readonly field?: string
}

/**
 * Takes out of the message of a JSON or Protobuf parser what is wrong and where. The message itself
 * must not leave: it names types of ours. `input` is the request's schema: of some faults the parser
 * says only the type, and the field is the one that has it.
 */
export function readParseError(message: string, input?: DescMessage): ParseFault {
  const field = /cannot decode field [\w.]+\.(\w+) from JSON(?:: (.*))?$/s.exec(message)
  if (field?.[1] !== undefined) {
    const detail = /^[\w ,.'"-]{1,120}$/.test(field[2] ?? "") ? `: ${field[2]}` : ""
    return { cause: `field "${field[1]}" has a wrong value${detail}`, field: field[1] }
  }
  const unknown = /from JSON: key "([^"]{1,128})" is unknown$/.exec(message)
  if (unknown?.[1] !== undefined) {
    return { cause: `unknown field "${unknown[1]}"`, field: unknown[1] }
  }
  const value = /cannot decode enum ([\w.]+) from JSON: ("?[\w.-]{1,64}"?)$/.exec(message)
  if (value !== null) return at(input, value[1], `unknown enum value ${value[2]}`)
  if (/in JSON|JSON input|JSON at position/.test(message)) return { cause: "it is no valid JSON" }
  if (message.startsWith("parse binary")) return { cause: "it is no valid Protobuf" }
  if (message.startsWith("decompression failed")) return { cause: "it is no valid gzip" }
  if (message.includes("timeout")) return { cause: "its timeout is not valid" }
  const type = /cannot decode message ([\w.]+) from JSON/.exec(message)?.[1]
  if (type !== undefined && type !== input?.typeName) {
    const fault = at(input, type, "a field has a wrong value")
    return fault.field === undefined
      ? fault
      : { ...fault, cause: `"${fault.field}" has a wrong value` }
  }
  if (message.includes("from JSON")) return { cause: "it is no valid JSON for this method" }
  return { cause: "it breaks the protocol" }
}

/** The paths of the fields of a message that have the type, nested ones included. */
export function fieldsOfType(
  schema: DescMessage,
  typeName: string,
  above: readonly DescMessage[] = [],
): readonly string[] {
  if (above.includes(schema)) return []
  return schema.fields.flatMap((field) => {
    if ((field.enum ?? field.message)?.typeName === typeName) return [field.name]
    if (field.message === undefined) return []
    const below = fieldsOfType(field.message, typeName, [...above, schema])
    return below.map((name) => `${field.name}.${name}`)
  })
}

function at(input: DescMessage | undefined, typeName = "", cause = ""): ParseFault {
  const names = input === undefined ? [] : fieldsOfType(input, typeName)
  return names.length === 0 ? { cause } : { cause, field: names.join(" or ") }
}
