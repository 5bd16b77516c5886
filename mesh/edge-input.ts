import type { DescField, DescMessage, DescMethod, Message } from "@bufbuild/protobuf"
import { ConnectError, type Interceptor } from "@connectrpc/connect"
import { findDuplicateKey } from "./duplicate-key.ts"
import { type ErrorPlace, isTyped, typedError } from "./edge-errors.ts"
import { RunwardenError, toConnectError } from "./errors.ts"

/**
 * Decodes the bytes of a JSON request and refuses what a parser would silently change: bytes that
 * are no UTF-8, keys that are given twice, and numbers that a double cannot hold, such as a 64-bit integer
 * beyond 2^53 that is written without quotes.
 */
export function readJsonText(bytes: Uint8Array): string {
  let text: string
  try {
    text = utf8.decode(bytes)
  } catch (cause) {
    throw malformed("it is no valid UTF-8", undefined, cause)
  }
  if (suspicious.test(text)) checkNumbers(text)
  const twice = findDuplicateKey(text)
  if (twice !== undefined) throw malformed(`the key "${twice}" is given twice`, twice)
  return text
}

/**
 * The decoder that Connect's JSON parser takes in place of `TextDecoder`. An error that it throws
 * reaches the caller as it is.
 */
export const jsonTextDecoder = {
  decode(bytes: Uint8Array): string {
    try {
      return readJsonText(bytes)
    } catch (error) {
      throw toConnectError(error)
    }
  },
}

/**
 * Refuses text that no database of the mesh can keep as it is: NUL, and halves of characters.
 * Throws the error as it leaves, so that it may stand before the interceptor that maps errors. What
 * the parser says of a stream's message it types here, for behind this nobody knows a parser's words.
 */
export function inputInterceptor(limitOf: (method: DescMethod) => number = () => 0): Interceptor {
  return (next) => async (request) => {
    if (!request.stream) {
      requireText(request.method.input, request.message)
      return next(request)
    }
    const { message, method } = request
    async function* checked() {
      for await (const item of typed(message, { method, limitBytes: limitOf(method) })) {
        requireText(method.input, item)
        yield item
      }
    }
    return next({ ...request, message: checked() })
  }
}

async function* typed(
  messages: AsyncIterable<Message>,
  place: ErrorPlace,
): AsyncGenerator<Message> {
  try {
    yield* messages
  } catch (error) {
    if (!(error instanceof ConnectError) || isTyped(error)) throw error
    throw typedError(error.code, error.rawMessage, place)
  }
}

/** Throws MALFORMED_REQUEST, naming the field, if any string of the message cannot be kept. */
export function requireText(schema: DescMessage, message: Message): void {
  const field = findBad(schema, message)
  if (field === undefined) return
  throw toConnectError(
    malformed(`field "${field}" holds a NUL character or a lone surrogate`, field),
  )
}

const utf8 = new TextDecoder("utf-8", { fatal: true })

/** Sixteen digits or a three-digit exponent: what a double may not hold. Rare, so worth a test. */
const suspicious = /\d{16}|\d[eE]\+?\d{3}/

function checkNumbers(text: string): void {
  try {
    JSON.parse(text, refuseInexact)
  } catch (error) {
    // Broken JSON is told by the parser that comes next, in the way of its protocol.
    if (error instanceof RunwardenError) throw error
  }
}

function refuseInexact(
  key: string,
  value: unknown,
  context?: { readonly source?: string },
): unknown {
  if (typeof value !== "number") return value
  const digits = context?.source?.replace(/[eE].*$|\D/g, "").length ?? 0
  const isRounded = Number.isInteger(value) && !Number.isSafeInteger(value) && digits >= 16
  if (isRounded || !Number.isFinite(value)) {
    throw malformed(
      `field "${key}" holds a number that JSON cannot carry: write it as a string`,
      key,
    )
  }
  return value
}

type Fields = Readonly<Record<string, unknown>>

function findBad(schema: DescMessage, message: Message): string | undefined {
  const fields = message as unknown as Fields
  for (const field of schema.fields) {
    const found = findBadInField(field, fieldValue(field, fields))
    if (found !== undefined) return `${field.name}${found}`
  }
  return undefined
}

function fieldValue(field: DescField, fields: Fields): unknown {
  if (field.oneof === undefined) return fields[field.localName]
  const chosen = fields[field.oneof.localName] as { case?: string; value?: unknown } | undefined
  return chosen?.case === field.localName ? chosen.value : undefined
}

/** The path below the field to the first bad text: empty for the field itself, undefined for none. */
function findBadInField(field: DescField, value: unknown): string | undefined {
  if (value === undefined) return undefined
  switch (field.fieldKind) {
    case "scalar":
      return isBad(value) ? "" : undefined
    case "enum":
      return undefined
    case "message":
      return findBadInMessage(field.message, value)
    case "list":
      return firstOf((value as readonly unknown[]).entries(), (item) =>
        field.message === undefined ? badPath(item) : findBadInMessage(field.message, item),
      )
    case "map":
      return firstOf(Object.entries(value as object), (item) =>
        field.message === undefined ? badPath(item) : findBadInMessage(field.message, item),
      )
  }
}

function findBadInMessage(schema: DescMessage, value: unknown): string | undefined {
  // A Struct is plain JSON here.
  if (schema.typeName === "google.protobuf.Struct") return findBadInJson(value)
  const found = findBad(schema, value as Message)
  return found === undefined ? undefined : `.${found}`
}

function findBadInJson(value: unknown): string | undefined {
  if (typeof value === "string") return badPath(value)
  if (typeof value !== "object" || value === null) return undefined
  return firstOf(Array.isArray(value) ? value.entries() : Object.entries(value), findBadInJson)
}

function firstOf(
  entries: Iterable<[string | number, unknown]>,
  find: (item: unknown) => string | undefined,
): string | undefined {
  for (const [key, item] of entries) {
    if (isBad(key)) return "[a key]"
    const found = find(item)
    if (found !== undefined) return `[${JSON.stringify(key)}]${found}`
  }
  return undefined
}

function badPath(value: unknown): string | undefined {
  return isBad(value) ? "" : undefined
}

function isBad(value: unknown): boolean {
  return typeof value === "string" && (value.includes("\0") || !value.isWellFormed())
}

function malformed(reason: string, field?: string, cause?: unknown): RunwardenError {
  const violations = field === undefined ? [] : [{ field, description: reason }]
  return new RunwardenError("MALFORMED_REQUEST", { cause: reason }, { violations, cause })
}
