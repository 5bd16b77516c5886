/**
 * Reads the answers of peers, and those that strangers write with care. The size of a message says
 * little of what it costs to read: two megabytes hold a million empty values, which take 400 MB and
 * stop everything else for more than a second.
 */
import { type DescMessage, fromBinary, type MessageShape } from "@bufbuild/protobuf"
import { BinaryReader, WireType } from "@bufbuild/protobuf/wire"
import { Code, ConnectError } from "@connectrpc/connect"
import {
  ExecuteToolResponseSchema,
  GetOutcomeResponseSchema,
} from "../gen/runwarden/tools/v1/tool_provider_service_pb.ts"

/** The most messages within one answer of a stranger; each value of a Struct is one. */
export const maxMessagesFromStrangers = 50_000

/** As deep as Protobuf's readers go. */
const maxDepth = 100

/** No message has fewer bytes, its tag and its length, within the one that holds it. */
const leastBytes = 2

const strangersAnswers: ReadonlySet<DescMessage> = new Set([
  ExecuteToolResponseSchema,
  GetOutcomeResponseSchema,
])

/** Reads an answer. Throws RESOURCE_EXHAUSTED for one that holds more than is taken of strangers. */
export function readAnswer<D extends DescMessage>(schema: D, bytes: Uint8Array): MessageShape<D> {
  if (strangersAnswers.has(schema) && bytes.length > leastBytes * maxMessagesFromStrangers) {
    const count = countMessages(shapeOf(schema), new BinaryReader(bytes), {
      end: bytes.length,
      count: 0,
      depth: 0,
    })
    if (count > maxMessagesFromStrangers) {
      const message = `The answer holds more than ${maxMessagesFromStrangers} values.`
      throw new ConnectError(message, Code.ResourceExhausted)
    }
  }
  return fromBinary(schema, bytes)
}

/**
 * The messages up to `end`, and those before. Counts no further than is taken; what is nested too
 * deeply is for the real reader to refuse.
 */
function countMessages(shape: Shape, reader: BinaryReader, place: Place): number {
  let { count } = place
  while (reader.pos < place.end && count <= maxMessagesFromStrangers) {
    const [number, wireType] = reader.tag()
    const inner = wireType === WireType.LengthDelimited ? shape.get(number) : undefined
    if (inner === undefined || place.depth === maxDepth) {
      reader.skip(wireType, number)
    } else {
      const length = reader.uint32()
      const within = { end: reader.pos + length, count: count + 1, depth: place.depth + 1 }
      count = countMessages(inner, reader, within)
    }
  }
  return count
}

interface Place {
  readonly end: number
  readonly count: number
  readonly depth: number
}

/** The fields of a message that are messages themselves, by their numbers. */
type Shape = ReadonlyMap<number, Shape>

const shapes = new Map<DescMessage, Map<number, Shape>>()

function shapeOf(schema: DescMessage): Shape {
  const known = shapes.get(schema)
  if (known !== undefined) return known
  const shape = new Map<number, Shape>()
  // Before its fields are looked at: a value may hold values.
  shapes.set(schema, shape)
  for (const field of schema.fields) {
    const inner = field.message === undefined ? new Map() : shapeOf(field.message)
    if (field.fieldKind === "map") shape.set(field.number, new Map([[mapValue, inner]]))
    else if (field.message !== undefined) shape.set(field.number, inner)
  }
  return shape
}

/** The number of the value in an entry of a map, which is a message on the wire. */
const mapValue = 2
