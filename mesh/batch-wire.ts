/**
 * The envelope of a batch as bytes. `BatchX` has the same shape for every `X`, so it is written and
 * read here once, and the messages of `X` within it are bytes that nobody encodes twice.
 *
 *     BatchXRequest  { repeated string identities = 1; repeated BatchXItem items = 2; }
 *     BatchXItem     { uint32 identity = 1; uint64 timeout_millis = 2; string trace_parent = 3;
 *                      X request = 4; }
 *     BatchXResponse { repeated BatchXResult results = 1; }
 *     BatchXResult   { uint32 item = 1; oneof { X response = 2; google.rpc.Status error = 3; } }
 */
import { BinaryReader, BinaryWriter, WireType } from "@bufbuild/protobuf/wire"

/** One call in a batch. */
export interface BatchItem {
  /** Position of its caller among those that the identities stand for. */
  readonly identity: number
  /** 0 for the usual deadline. */
  readonly timeoutMs: number
  /** W3C `traceparent`; empty for none. */
  readonly traceParent: string
  readonly request: Uint8Array
}

export interface BatchRequest {
  readonly identities: readonly string[]
  readonly items: readonly BatchItem[]
}

/** The outcome of one item: its answer, or a `google.rpc.Status`. */
export interface BatchResult {
  readonly item: number
  readonly response?: Uint8Array
  readonly error?: Uint8Array
}

/** What an item takes beside its message, at most. */
export const itemOverheadBytes = 160

export function encodeBatchRequest({ identities, items }: BatchRequest): Buffer {
  const writer = new BinaryWriter()
  for (const identity of identities) writer.tag(1, WireType.LengthDelimited).string(identity)
  for (const item of items) {
    writer.tag(2, WireType.LengthDelimited).fork()
    if (item.identity !== 0) writer.tag(1, WireType.Varint).uint32(item.identity)
    if (item.timeoutMs !== 0) writer.tag(2, WireType.Varint).uint64(item.timeoutMs)
    if (item.traceParent !== "") writer.tag(3, WireType.LengthDelimited).string(item.traceParent)
    writer.tag(4, WireType.LengthDelimited).bytes(item.request).join()
  }
  return toBuffer(writer)
}

/** Throws for bytes that are no such message; what it does not know it skips. */
export function decodeBatchRequest(bytes: Uint8Array): BatchRequest {
  const reader = new BinaryReader(bytes)
  const identities: string[] = []
  const items: BatchItem[] = []
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag()
    if (field === 1) identities.push(text(reader, type))
    else if (field === 2) items.push(decodeItem(part(reader, type)))
    else reader.skip(type, field)
  }
  return { identities, items }
}

export function encodeBatchResponse(results: readonly BatchResult[]): Buffer {
  const writer = new BinaryWriter()
  for (const { item, response, error } of results) {
    writer.tag(1, WireType.LengthDelimited).fork()
    if (item !== 0) writer.tag(1, WireType.Varint).uint32(item)
    if (response !== undefined) writer.tag(2, WireType.LengthDelimited).bytes(response)
    if (error !== undefined) writer.tag(3, WireType.LengthDelimited).bytes(error)
    writer.join()
  }
  return toBuffer(writer)
}

/** Throws for bytes that are no such message; what it does not know it skips. */
export function decodeBatchResponse(bytes: Uint8Array): readonly BatchResult[] {
  const reader = new BinaryReader(bytes)
  const results: BatchResult[] = []
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag()
    if (field === 1) results.push(decodeResult(part(reader, type)))
    else reader.skip(type, field)
  }
  return results
}

const nothing: Uint8Array = new Uint8Array()

function decodeItem(bytes: Uint8Array): BatchItem {
  const reader = new BinaryReader(bytes)
  const item = { identity: 0, timeoutMs: 0, traceParent: "", request: nothing }
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag()
    if (field === 1 && type === WireType.Varint) item.identity = reader.uint32()
    else if (field === 2 && type === WireType.Varint) item.timeoutMs = Number(reader.uint64())
    else if (field === 3) item.traceParent = text(reader, type)
    else if (field === 4) item.request = part(reader, type)
    else reader.skip(type, field)
  }
  return item
}

function decodeResult(bytes: Uint8Array): BatchResult {
  const reader = new BinaryReader(bytes)
  let result: BatchResult = { item: 0 }
  while (reader.pos < reader.len) {
    const [field, type] = reader.tag()
    if (field === 1 && type === WireType.Varint) result = { ...result, item: reader.uint32() }
    else if (field === 2) result = { item: result.item, response: part(reader, type) }
    else if (field === 3) result = { item: result.item, error: part(reader, type) }
    else reader.skip(type, field)
  }
  return result
}

function part(reader: BinaryReader, type: WireType): Uint8Array {
  if (type !== WireType.LengthDelimited) throw new Error("not a batch")
  return reader.bytes()
}

function text(reader: BinaryReader, type: WireType): string {
  if (type !== WireType.LengthDelimited) throw new Error("not a batch")
  return reader.string(true)
}

function toBuffer(writer: BinaryWriter): Buffer {
  const bytes = writer.finish()
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
