/**
 * What a command says when it does not succeed: one sentence, what to do next, the reason and the
 * fields. Never a stack.
 */
import { Code, ConnectError } from "@connectrpc/connect"
import { ViolationsSchema } from "../gen/buf/validate/validate_pb.ts"
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.ts"
import { metadataOf, reasonOf } from "../mesh/errors.ts"
import { describeError } from "../mesh/outcomes.ts"
import { exitCodes } from "./exit-code.ts"

export interface FailedField {
  readonly field: string
  readonly description: string
}

export interface Failure {
  /** One sentence. */
  readonly message: string
  /** A reason of the contract, or one of the command's own in lower_snake_case. */
  readonly reason: string
  readonly next?: string
  readonly fields: readonly FailedField[]
  readonly metadata: Readonly<Record<string, string>>
}

/** A failure that the command itself finds. */
export class CliError extends Error {
  override readonly name = "CliError"
  readonly failure: Failure
  readonly exitCode: number

  constructor(
    message: string,
    options: Partial<Omit<Failure, "message">> & {
      readonly exitCode?: number
      readonly cause?: unknown
    } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    const { reason = "usage", fields = [], metadata = {}, next } = options
    this.failure = { message, reason, fields, metadata, ...(next === undefined ? {} : { next }) }
    this.exitCode = options.exitCode ?? exitCodes.error
  }
}

/** What to say about whatever was thrown. `url` is where the mesh was expected. */
export function toFailure(error: unknown, url: string): Failure {
  if (error instanceof CliError) return error.failure
  const connection = connectionFailure(error, url)
  if (connection !== undefined) return connection
  if (error instanceof ConnectError) return fromConnectError(error, url)
  const message = error instanceof Error ? error.message : String(error)
  return { message: sentence(message), reason: "error", fields: [], metadata: {} }
}

function fromConnectError(error: ConnectError, url: string): Failure {
  const reason = reasonOf(error)
  if (reason === undefined) {
    return {
      message: `${url} did not answer as a Runwarden gateway: ${sentence(error.rawMessage)}`,
      reason: "not_a_gateway",
      next: "Check the address in --url or RUNWARDEN_URL.",
      fields: [],
      metadata: { code: Code[error.code] ?? String(error.code) },
    }
  }
  const { next } = describeError(reason)
  return {
    message: sentence(error.rawMessage),
    reason,
    fields: fieldsOf(error),
    metadata: metadataOf(error),
    ...(next === undefined ? {} : { next }),
  }
}

function fieldsOf(error: ConnectError): readonly FailedField[] {
  const bad = error
    .findDetails(BadRequestSchema)
    .flatMap(({ fieldViolations }) => fieldViolations)
    .map(({ field, description }) => ({ field, description }))
  if (bad.length > 0) return bad
  const broken = error
    .findDetails(ViolationsSchema)
    .flatMap(({ violations }) => violations)
    .map(({ field, message }) => ({
      field: field?.elements.map(({ fieldName }) => fieldName).join(".") ?? "",
      description: message,
    }))
  if (broken.length > 0) return broken
  const { field, cause = "is not valid" } = metadataOf(error)
  return field === undefined ? [] : [{ field, description: cause }]
}

const connectionCodes: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there",
  ECONNRESET: "the connection was cut",
  EPIPE: "the connection was cut",
  ENOTFOUND: "the host name is not known",
  EAI_AGAIN: "the host name cannot be looked up now",
  EHOSTUNREACH: "the host cannot be reached",
  ENETUNREACH: "the network cannot be reached",
  ETIMEDOUT: "the host does not answer",
  ERR_SSL_WRONG_VERSION_NUMBER: "it does not speak TLS; is it http:// instead of https://?",
  EPROTO: "it does not speak TLS; is it http:// instead of https://?",
}

function connectionFailure(error: unknown, url: string): Failure | undefined {
  for (let current = error, depth = 0; current instanceof Error && depth < 5; depth++) {
    const code = "code" in current && typeof current.code === "string" ? current.code : ""
    const why = connectionCodes[code]
    if (why !== undefined) {
      return {
        message: `No mesh runs at ${url}: ${why}.`,
        reason: "unreachable",
        next: "Start one with `npm start`, or name another with --url or RUNWARDEN_URL.",
        fields: [],
        metadata: { url, code },
      }
    }
    current = current.cause
  }
  return undefined
}

function sentence(text: string): string {
  const line = text.trim()
  return /[.!?:)]$/.test(line) ? line : `${line}.`
}
