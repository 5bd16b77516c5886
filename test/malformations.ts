/** Every way to break a request that its descriptor tells of, as JSON and as Protobuf. */
import {
  type DescField,
  type DescMessage,
  type JsonObject,
  type JsonValue,
  type Message,
  ScalarType,
  toBinary,
  toJson,
} from "@bufbuild/protobuf"
import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire"

/** A broken request, and what its answer must say. */
export interface Malformation {
  readonly name: string
  readonly body: string | Uint8Array
  readonly reasons: readonly string[]
  /** What must be named: the last part of a field's path, or a key. */
  readonly field?: string
}

type Path = readonly DescField[]

const unreadable = ["MALFORMED_REQUEST"]
const unreadableOrInvalid = ["MALFORMED_REQUEST", "INVALID_REQUEST"]
const tooDeep = "[".repeat(20_000)

/** A request as JSON with the names of its contract. */
export function jsonOf(schema: DescMessage, message: Message): JsonObject {
  return toJson(schema, message, { useProtoFieldName: true }) as JsonObject
}

/** Breaks a JSON request in every way; fields in `without` travel elsewhere, as in a path. */
export function malformedJson(
  schema: DescMessage,
  valid: JsonObject,
  without: ReadonlySet<string> = new Set(),
): readonly Malformation[] {
  const text = JSON.stringify(valid)
  const paths = fieldPaths(schema).filter(([top]) => !without.has(top?.name ?? ""))
  const [first] = paths[0] ?? []
  const [key = "x"] = Object.keys(valid)
  const twice = `{${JSON.stringify(key)}:${JSON.stringify(valid[key] ?? null)},${text.slice(1)}`
  const whole: Malformation[] = [
    {
      name: "unknown field",
      body: JSON.stringify({ ...valid, no_such_field: 1 }),
      reasons: unreadable,
      field: "no_such_field",
    },
    { name: "cut", body: text.slice(0, -1), reasons: unreadable },
    { name: "no JSON", body: "}{", reasons: unreadable },
    { name: "an array", body: "[]", reasons: unreadable },
    { name: "null", body: "null", reasons: unreadable },
    { name: "bytes of no UTF-8", body: Buffer.from(`{"\xff":1}`, "latin1"), reasons: unreadable },
    { name: "20,000 brackets", body: `{"no_such_field":${tooDeep}`, reasons: unreadable },
    {
      name: "20,000 objects",
      body: `{"no_such_field":${'{"a":'.repeat(20_000)}1${"}".repeat(20_000)}}`,
      reasons: unreadable,
    },
    {
      name: "a polluting key",
      body: `{"__proto__":{"polluted":1},${text.slice(1)}`.replace(",}", "}"),
      reasons: unreadable,
      field: "__proto__",
    },
  ]
  if (Object.keys(valid).length > 0) {
    whole.push({ name: "a key twice", body: twice, reasons: unreadable, field: key })
    whole.push({
      name: "a key twice, once escaped",
      body: `{"\\u${key.charCodeAt(0).toString(16).padStart(4, "0")}${key.slice(1)}":"x",${text.slice(1)}`,
      reasons: unreadable,
      field: key,
    })
  }
  if (first !== undefined && first.jsonName !== first.name) {
    const both = { [first.name]: valid[first.name] ?? null, [first.jsonName]: "x" }
    whole.push({
      name: "both names of a field",
      body: JSON.stringify({ ...valid, ...both }),
      reasons: unreadable,
    })
  }
  return [...whole, ...paths.flatMap((path) => malformedField(valid, path))]
}

function malformedField(valid: JsonObject, path: Path): Malformation[] {
  const leaf = path.at(-1)
  if (leaf === undefined) return []
  const where = path.map((field) => field.name).join(".")
  const broken = (what: string, value: JsonValue, reasons = unreadable): Malformation => ({
    name: `${where}: ${what}`,
    body: JSON.stringify(withValue(valid, path, value)).replace('"@2^53+1@"', "9007199254740993"),
    reasons,
    field: leaf.name,
  })
  const one = (value: JsonValue): JsonValue => (leaf.fieldKind === "list" ? [value] : value)
  const cases: Malformation[] = []
  if (leaf.fieldKind === "list") cases.push(broken("no list", { a: 1 }))
  if (leaf.fieldKind === "map") return [broken("no map", [1])]
  if (leaf.enum !== undefined) {
    cases.push(broken("unknown name", one("NO_SUCH_VALUE")))
    cases.push(broken("unknown number", one(9_999), unreadableOrInvalid))
    cases.push(broken("a fraction", one(1.5)))
  } else if (leaf.message !== undefined) {
    cases.push(broken("no message", one("nonsense")))
    if (leaf.message.typeName === "google.protobuf.Struct") {
      cases.push(broken("NUL in a value", one({ a: ["x\0"] }), unreadableOrInvalid))
      cases.push(broken("NUL in a key", one({ "a\0": 1 }), unreadableOrInvalid))
      cases.push(broken("half a character", one({ a: "\ud800" }), unreadableOrInvalid))
      cases.push(broken("half a character in a key", one({ "\udc00": 1 }), unreadableOrInvalid))
    }
  } else {
    cases.push(...malformedScalar(leaf.scalar, broken, one))
  }
  return cases
}

type Broken = (what: string, value: JsonValue, reasons?: string[]) => Malformation

function malformedScalar(
  scalar: ScalarType | undefined,
  broken: Broken,
  one: (value: JsonValue) => JsonValue,
): Malformation[] {
  switch (scalar) {
    case ScalarType.STRING:
      return [
        broken("a number", one(7)),
        broken("an object", one({})),
        broken("NUL", one("a\0b")),
        broken("half a character", one("a\ud800b")),
      ]
    case ScalarType.BOOL:
      return [broken("text", one("perhaps")), broken("a number", one(1))]
    case ScalarType.BYTES:
      return [broken("no base64", one("***")), broken("a number", one(1))]
    case ScalarType.DOUBLE:
    case ScalarType.FLOAT:
      return [broken("text", one("many")), broken("an object", one({}))]
    case ScalarType.INT64:
    case ScalarType.UINT64:
      return [broken("beyond 2^53 as a number", one("@2^53+1@")), broken("text", one("many"))]
    default:
      return [
        broken("text", one("many")),
        broken("a fraction", one(1.5)),
        broken("too large", one(2 ** 40)),
      ]
  }
}

/** Breaks a request as Protobuf in every way. */
export function malformedBinary(schema: DescMessage, message: Message): readonly Malformation[] {
  const valid = toBinary(schema, message)
  const plus = (write: (writer: BinaryWriter) => void): Uint8Array => {
    const writer = new BinaryWriter()
    write(writer)
    return Buffer.concat([valid, writer.finish()])
  }
  const groups = (writer: BinaryWriter) => {
    for (let depth = 0; depth < 20_000; depth += 1) writer.tag(9_000, WireType.StartGroup)
  }
  return [
    {
      name: "cut",
      body: Buffer.concat([valid, Buffer.from([0x0a, 0x7f, 0x61])]),
      reasons: unreadable,
    },
    { name: "an endless varint", body: Buffer.alloc(30, 0xff), reasons: unreadable },
    {
      name: "field number 0",
      body: Buffer.concat([valid, Buffer.from([0, 0])]),
      reasons: unreadable,
    },
    { name: "wire type 7", body: Buffer.concat([valid, Buffer.from([0x0f])]), reasons: unreadable },
    {
      name: "an open end of a group",
      body: plus((it) => it.tag(9_000, WireType.EndGroup)),
      reasons: unreadable,
    },
    { name: "20,000 groups", body: plus(groups), reasons: unreadable },
    ...schema.fields.flatMap((field): Malformation[] => {
      const named = { reasons: unreadableOrInvalid, field: field.name }
      const isText = field.scalar === ScalarType.STRING && field.fieldKind !== "map"
      if (field.enum !== undefined) {
        const body = plus((it) => it.tag(field.number, WireType.Varint).int32(9_999))
        return [{ name: `${field.name}: unknown number`, body, ...named }]
      }
      if (!isText) return []
      const notUtf8 = plus((it) =>
        it.tag(field.number, WireType.LengthDelimited).bytes(new Uint8Array([0x61, 0xff])),
      )
      const surrogate = plus((it) =>
        it.tag(field.number, WireType.LengthDelimited).bytes(new Uint8Array([0xed, 0xa0, 0x80])),
      )
      const nul = plus((it) => it.tag(field.number, WireType.LengthDelimited).string("a\0b"))
      return [
        { name: `${field.name}: no UTF-8`, body: notUtf8, reasons: unreadable },
        { name: `${field.name}: half a character`, body: surrogate, reasons: unreadable },
        { name: `${field.name}: NUL`, body: nul, ...named },
      ]
    }),
  ]
}

/** The way to every field of a message, into nested messages of ours. */
function fieldPaths(schema: DescMessage, above: Path = []): Path[] {
  if (above.length > 4) return []
  return schema.fields.flatMap((field): Path[] => {
    const path = [...above, field]
    const nested = field.fieldKind === "map" ? undefined : field.message
    const isOurs = nested !== undefined && !nested.typeName.startsWith("google.")
    return [path, ...(isOurs ? fieldPaths(nested, path) : [])]
  })
}

/** The JSON with another value at a path; what is not there on the way is made. */
function withValue(json: JsonObject, path: Path, value: JsonValue): JsonObject {
  const [field, ...rest] = path
  if (field === undefined) return json
  const rivals = field.oneof?.fields.filter((each) => each !== field).map((each) => each.name) ?? []
  const kept = Object.fromEntries(Object.entries(json).filter(([name]) => !rivals.includes(name)))
  if (rest.length === 0) return { ...kept, [field.name]: value }
  const held = json[field.name]
  const below = field.fieldKind === "list" && Array.isArray(held) ? held[0] : held
  const inner = withValue(isObject(below) ? below : {}, rest, value)
  return { ...kept, [field.name]: field.fieldKind === "list" ? [inner] : inner }
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}
