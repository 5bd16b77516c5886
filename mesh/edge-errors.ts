import {
  create,
  createRegistry,
  type DescMethod,
  fromBinary,
  type JsonObject,
  type JsonValue,
  toBinary,
  toJson,
} from "@bufbuild/protobuf"
import { Code, ConnectError } from "@connectrpc/connect"
import { ViolationsSchema } from "../gen/buf/validate/validate_pb.ts"
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.ts"
import { PolicyDenialSchema } from "../gen/runwarden/errors/v1/policy_denial_pb.ts"
import { RunwardenError, reasonOf, toConnectError } from "./errors.ts"
import { methodName } from "./method-chain.ts"
import { readParseError } from "./parse-error.ts"

const knownDetails = createRegistry(
  ErrorInfoSchema,
  BadRequestSchema,
  RetryInfoSchema,
  PolicyDenialSchema,
  ViolationsSchema,
)

const httpStatuses: Readonly<Record<Code, number>> = {
  [Code.Canceled]: 499,
  [Code.Unknown]: 500,
  [Code.InvalidArgument]: 400,
  [Code.DeadlineExceeded]: 504,
  [Code.NotFound]: 404,
  [Code.AlreadyExists]: 409,
  [Code.PermissionDenied]: 403,
  [Code.ResourceExhausted]: 429,
  [Code.FailedPrecondition]: 400,
  [Code.Aborted]: 409,
  [Code.OutOfRange]: 400,
  [Code.Unimplemented]: 501,
  [Code.Internal]: 500,
  [Code.Unavailable]: 503,
  [Code.DataLoss]: 500,
  [Code.Unauthenticated]: 401,
}

/** The HTTP status of an error, the same for REST and for the Connect protocol. */
export function httpStatusOf(code: Code): number {
  return httpStatuses[code]
}

/** The name of a code in the Connect protocol, such as `invalid_argument`. */
export function codeName(code: Code): string {
  return Code[code].replaceAll(/(?<=[a-z])[A-Z]/g, "_$&").toLowerCase()
}

/** The code of a Connect name; undefined for anything else. */
export function codeOfName(name: unknown): Code | undefined {
  return codesByName.get(String(name))
}

const codesByName = new Map(
  Object.values(Code)
    .filter((code) => typeof code === "number")
    .map((code) => [codeName(code), code]),
)

/**
 * An error as the Connect protocol writes it in JSON. Every detail that is known also stands in
 * clear under `debug`, so that a person with curl can read the reason and the fields.
 */
export function errorJson(error: ConnectError): JsonObject {
  const details = error.details.map((detail): JsonObject => {
    if (!("type" in detail)) {
      const value = toBinary(detail.desc, create(detail.desc, detail.value))
      return detailJson(detail.desc.typeName, value)
    }
    return detailJson(detail.type, detail.value)
  })
  return {
    code: codeName(error.code),
    message: error.rawMessage,
    ...(details.length > 0 ? { details } : {}),
  }
}

/** Where an error came from, as far as the edge knows. */
export interface ErrorPlace {
  readonly limitBytes: number
  readonly method: DescMethod
}

/**
 * The typed error for one that a protocol library made by itself, told from its code and message.
 * The library's sentence is not passed on: it names types of ours.
 */
export function typedError(code: Code, message: string, place: ErrorPlace): ConnectError {
  switch (code) {
    case Code.ResourceExhausted:
      return toConnectError(
        new RunwardenError("REQUEST_TOO_LARGE", { limit_bytes: `${place.limitBytes}` }),
      )
    case Code.InvalidArgument:
      return malformed(message, place)
    case Code.Internal:
      if (!/^(parse binary|decompression failed|received compressed)/.test(message)) break
      return malformed(message, place)
    case Code.Unimplemented: {
      if (!message.startsWith("unknown compression")) {
        return toConnectError(
          new RunwardenError("METHOD_NOT_FOUND", { method: methodName(place.method) }),
        )
      }
      // The protocols ask for this code, so that a client tries again without compression.
      const cause = "its compression is not supported: only gzip is"
      const { rawMessage, details } = toConnectError(
        new RunwardenError("MALFORMED_REQUEST", { cause }),
      )
      const error = new ConnectError(rawMessage, code)
      error.details = details
      return error
    }
    default:
  }
  return toConnectError(new ConnectError(message, code))
}

/** Whether an error, however it was read, says its reason. */
export function isTyped(error: ConnectError): boolean {
  return reasonOf(error) !== undefined
}

function malformed(message: string, { method }: ErrorPlace): ConnectError {
  const { cause, field } = readParseError(message, method.input)
  const violations = field === undefined ? [] : [{ field, description: cause }]
  return toConnectError(new RunwardenError("MALFORMED_REQUEST", { cause }, { violations }))
}

function detailJson(type: string, value: Uint8Array): JsonObject {
  const debug = debugJson(type, value)
  return {
    type,
    value: Buffer.from(value).toString("base64").replace(/=+$/, ""),
    ...(debug === undefined ? {} : { debug }),
  }
}

function debugJson(type: string, value: Uint8Array): JsonValue | undefined {
  const schema = knownDetails.getMessage(type)
  if (schema === undefined) return undefined
  try {
    return toJson(schema, fromBinary(schema, value))
  } catch {
    return undefined
  }
}
