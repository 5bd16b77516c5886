import { create, type MessageInitShape } from "@bufbuild/protobuf"
import { durationMs } from "@bufbuild/protobuf/wkt"
import { Code, ConnectError } from "@connectrpc/connect"
import { ViolationsSchema } from "../gen/buf/validate/validate_pb.ts"
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.ts"
import type { ErrorReason } from "../gen/runwarden/errors/v1/error_reason_pb.ts"
import { PolicyDenialSchema } from "../gen/runwarden/errors/v1/policy_denial_pb.ts"

/** The domain of every ErrorInfo that a Runwarden service sends. */
export const errorDomain = "runwarden"

/** A reason for which a call can fail: a value of `runwarden.errors.v1.ErrorReason` without prefix. */
export type Reason = Exclude<keyof typeof ErrorReason, "UNSPECIFIED">

/** One field of a request that broke a rule. `field` is the path by Protobuf names. */
export interface Violation {
  readonly field: string
  readonly description: string
}

/** What an error carries beside its reason and metadata. */
export interface ErrorOptions {
  /** Replaces the message of the reason; must not hold more than the metadata says. */
  readonly message?: string
  /** Kept for the log of this service; never sent. */
  readonly cause?: unknown
  readonly violations?: readonly Violation[]
  /** After how many milliseconds the caller may try again. */
  readonly retryAfterMs?: number
  readonly policyDenial?: MessageInitShape<typeof PolicyDenialSchema>
}

interface ReasonRule {
  readonly code: Code
  /** The message; `{name}` is replaced by the metadata of that name. */
  readonly message: string
}

/**
 * Code and message of every reason. A reason of the contract that is missing here does not compile.
 */
const reasons: Readonly<Record<Reason, ReasonRule>> = {
  UNAUTHENTICATED: rule(Code.Unauthenticated, "A valid API key or token is required."),
  NOT_A_MEMBER: rule(
    Code.PermissionDenied,
    "You are not a member of this workspace, or it does not exist.",
  ),
  ROLE_TOO_LOW: rule(
    Code.PermissionDenied,
    "Your role {role} is not enough: this needs {required_role}.",
  ),
  CALLER_NOT_ALLOWED: rule(Code.PermissionDenied, "{caller} may not call {method}."),
  WORKSPACE_MISMATCH: rule(
    Code.PermissionDenied,
    "The workspace of the request is not the one of the identity.",
  ),
  DIGEST_MISMATCH: rule(
    Code.PermissionDenied,
    "The identity does not name this call: {field} differs.",
  ),
  APPROVER_NOT_ALLOWED: rule(
    Code.PermissionDenied,
    "You may not answer approval {approval_id}: rule {rule}.",
  ),
  POLICY_DENIED: rule(Code.PermissionDenied, "Policy {policy_version} blocked it."),
  INVALID_REQUEST: rule(Code.InvalidArgument, "The request breaks a rule of its schema: {field}."),
  MALFORMED_REQUEST: rule(Code.InvalidArgument, "The request cannot be read: {cause}."),
  INVALID_PAGE_TOKEN: rule(
    Code.InvalidArgument,
    "The page token was not given by this list for these filters.",
  ),
  INVALID_PLAN: rule(Code.InvalidArgument, "The plan cannot be run: {field}: {cause}."),
  UNKNOWN_TOOL: rule(Code.InvalidArgument, "There is no active tool {tool}."),
  AMBIGUOUS_TOOL: rule(
    Code.InvalidArgument,
    "The name {tool} is offered more than once: use one of {candidates}.",
  ),
  TOOL_ARGUMENTS_INVALID: rule(
    Code.InvalidArgument,
    "The arguments break the schema of {tool}: {field}.",
  ),
  INVALID_POLICY: rule(Code.InvalidArgument, "The policy cannot be used: {field}: {cause}."),
  UNSUPPORTED_MEDIA_TYPE: rule(
    Code.InvalidArgument,
    "Documents of type {media_type} cannot be ingested; supported are {supported}.",
  ),
  NOT_FOUND: rule(Code.NotFound, "There is no {resource} {id} in this workspace."),
  METHOD_NOT_FOUND: rule(Code.Unimplemented, "{method} is not served here."),
  ALREADY_EXISTS: rule(Code.AlreadyExists, "There is a {resource} {id} already."),
  REQUEST_ID_CONFLICT: rule(
    Code.AlreadyExists,
    "The request id {request_id} was used for another request; use a new one.",
  ),
  IDEMPOTENCY_CONFLICT: rule(
    Code.AlreadyExists,
    "The idempotency key was used for another call of {tool}.",
  ),
  IDEMPOTENCY_IN_PROGRESS: rule(Code.Aborted, "The same call of {tool} is in flight."),
  ETAG_MISMATCH: rule(
    Code.Aborted,
    "The {resource} {id} changed since you read it; read it again.",
  ),
  LEASE_LOST: rule(Code.Aborted, "Another replica has taken run {run_id} over."),
  ILLEGAL_TRANSITION: rule(
    Code.FailedPrecondition,
    "The {resource} is {current}: {requested} is not allowed from there (allowed: {allowed}).",
  ),
  APPROVAL_NOT_PENDING: rule(
    Code.FailedPrecondition,
    "Approval {approval_id} is {state} and takes no answer.",
  ),
  APPROVAL_CONTENT_CHANGED: rule(
    Code.FailedPrecondition,
    "The answer to approval {approval_id} names another digest than the one that waits.",
  ),
  LAST_ADMIN: rule(Code.FailedPrecondition, "The workspace would be left without an admin."),
  THREAD_BUSY: rule(
    Code.FailedPrecondition,
    "Run {run_id} of thread {thread_id} has not ended yet.",
  ),
  CREDENTIALS_UNAVAILABLE: rule(
    Code.FailedPrecondition,
    "The credentials of {provider} cannot be used: {cause}.",
  ),
  PROVIDER_REMOVED: rule(
    Code.FailedPrecondition,
    "The workspace has removed the provider {provider}.",
  ),
  REQUEST_TOO_LARGE: rule(
    Code.ResourceExhausted,
    "The request is larger than {limit_bytes} bytes.",
  ),
  LIMIT_EXCEEDED: rule(Code.ResourceExhausted, "The limit {limit} of {maximum} is reached."),
  DEPENDENCY_UNAVAILABLE: rule(Code.Unavailable, "{dependency} cannot be reached; try again."),
  SHUTTING_DOWN: rule(Code.Unavailable, "{service} is stopping; try again."),
  DEADLINE_EXCEEDED: rule(Code.DeadlineExceeded, "The deadline has passed."),
  CANCELLED: rule(Code.Canceled, "The call was cancelled."),
  INTERNAL: rule(Code.Internal, "Internal error."),
}

function rule(code: Code, message: string): ReasonRule {
  return { code, message }
}

/**
 * The one error that domain code throws. It owns its wire form: code, message, ErrorInfo with every
 * variable, and the details that apply.
 */
export class RunwardenError extends Error {
  override readonly name = "RunwardenError"
  readonly reason: Reason
  readonly metadata: Readonly<Record<string, string>>
  readonly violations: readonly Violation[]
  readonly retryAfterMs: number | undefined
  readonly policyDenial: MessageInitShape<typeof PolicyDenialSchema> | undefined

  constructor(
    reason: Reason,
    metadata: Readonly<Record<string, string>> = {},
    options: ErrorOptions = {},
  ) {
    super(
      options.message ?? fill(reasons[reason].message, metadata),
      options.cause === undefined ? undefined : { cause: options.cause },
    )
    this.reason = reason
    this.metadata = metadata
    this.violations = options.violations ?? []
    this.retryAfterMs = options.retryAfterMs
    this.policyDenial = options.policyDenial
  }

  /** The status code of the reason. */
  get code(): Code {
    return reasons[this.reason].code
  }
}

/** The answer for a resource that does not exist in the workspace, or exists in another one. */
export function notFound(resource: string, id: string): RunwardenError {
  return new RunwardenError("NOT_FOUND", { resource, id })
}

/** The answer for a step that the state of a resource does not allow. */
export function illegalTransition(
  resource: string,
  current: string,
  requested: string,
  allowed: readonly string[],
): RunwardenError {
  return new RunwardenError("ILLEGAL_TRANSITION", {
    resource,
    current,
    requested,
    allowed: allowed.join(", "),
  })
}

/** After how many milliseconds an error says that one may try again, its own or a peer's. */
export function retryAfterOf(error: unknown): number | undefined {
  if (error instanceof RunwardenError) return error.retryAfterMs
  if (!(error instanceof ConnectError)) return undefined
  const [info] = error.findDetails(RetryInfoSchema)
  return info?.retryDelay === undefined ? undefined : durationMs(info.retryDelay)
}

/** The reason of a RunwardenError, or of an error that a peer sent; undefined for anything else. */
export function reasonOf(error: unknown): Reason | undefined {
  if (error instanceof RunwardenError) return error.reason
  if (!(error instanceof ConnectError)) return undefined
  const info = error.findDetails(ErrorInfoSchema).find((detail) => detail.domain === errorDomain)
  return info !== undefined && Object.hasOwn(reasons, info.reason)
    ? (info.reason as Reason)
    : undefined
}

/** The metadata of the ErrorInfo that an error carries; empty where it carries none. */
export function metadataOf(error: unknown): Readonly<Record<string, string>> {
  if (error instanceof RunwardenError) return error.metadata
  if (!(error instanceof ConnectError)) return {}
  return error.findDetails(ErrorInfoSchema).find((d) => d.domain === errorDomain)?.metadata ?? {}
}

/**
 * Converts whatever was thrown into the error that leaves a service. An error that a peer made
 * already passes through; a status without a reason gets the reason of its code; everything else is
 * INTERNAL and says nothing of its cause.
 */
export function toConnectError(error: unknown): ConnectError {
  if (error instanceof RunwardenError) return encode(error)
  if (!(error instanceof ConnectError)) {
    return encode(new RunwardenError("INTERNAL", {}, { cause: error }))
  }
  if (reasonOf(error) !== undefined) return error
  const encoded = encode(fromPlainStatus(error))
  for (const violations of error.findDetails(ViolationsSchema)) {
    encoded.details.push({ desc: ViolationsSchema, value: violations })
  }
  return encoded
}

function fromPlainStatus(error: ConnectError): RunwardenError {
  const violations = fieldViolations(error)
  if (violations.length > 0) {
    return new RunwardenError(
      "INVALID_REQUEST",
      { field: violations[0]?.field ?? "" },
      { violations, cause: error },
    )
  }
  switch (error.code) {
    case Code.Unauthenticated:
      return new RunwardenError("UNAUTHENTICATED", {}, { cause: error })
    case Code.InvalidArgument:
      return new RunwardenError(
        "MALFORMED_REQUEST",
        { cause: "it is no valid message" },
        { cause: error },
      )
    case Code.Unimplemented:
      return new RunwardenError("METHOD_NOT_FOUND", { method: "The method" }, { cause: error })
    case Code.DeadlineExceeded:
      return new RunwardenError("DEADLINE_EXCEEDED", {}, { cause: error })
    case Code.Canceled:
      return new RunwardenError("CANCELLED", {}, { cause: error })
    case Code.Unavailable:
      return new RunwardenError(
        "DEPENDENCY_UNAVAILABLE",
        { dependency: "A service" },
        { cause: error },
      )
    case Code.ResourceExhausted:
      return new RunwardenError(
        "REQUEST_TOO_LARGE",
        { limit_bytes: "the allowed" },
        { cause: error },
      )
    default:
      return new RunwardenError("INTERNAL", {}, { cause: error })
  }
}

/** Reads the violations that the validation interceptor attached, as fields and sentences. */
function fieldViolations(error: ConnectError): Violation[] {
  return error.findDetails(ViolationsSchema).flatMap((detail) =>
    detail.violations.map((violation) => ({
      field: (violation.field?.elements ?? [])
        .map((element) => {
          const name = element.fieldName ?? ""
          if (element.subscript.case === "index") return `${name}[${element.subscript.value}]`
          if (element.subscript.case === "stringKey") return `${name}["${element.subscript.value}"]`
          return name
        })
        .join("."),
      description: violation.message ?? violation.ruleId ?? "invalid",
    })),
  )
}

function encode(error: RunwardenError): ConnectError {
  const details: ConstructorParameters<typeof ConnectError>[3] & unknown[] = [
    {
      desc: ErrorInfoSchema,
      value: { reason: error.reason, domain: errorDomain, metadata: { ...error.metadata } },
    },
  ]
  if (error.violations.length > 0) {
    details.push({
      desc: BadRequestSchema,
      value: { fieldViolations: error.violations.map((violation) => ({ ...violation })) },
    })
  }
  if (error.retryAfterMs !== undefined) {
    const millis = Math.max(0, Math.round(error.retryAfterMs))
    details.push({
      desc: RetryInfoSchema,
      value: {
        retryDelay: { seconds: BigInt(Math.floor(millis / 1000)), nanos: (millis % 1000) * 1e6 },
      },
    })
  }
  if (error.policyDenial !== undefined) {
    details.push({
      desc: PolicyDenialSchema,
      value: create(PolicyDenialSchema, error.policyDenial),
    })
  }
  return new ConnectError(error.message, error.code, undefined, details, error)
}

function fill(template: string, metadata: Readonly<Record<string, string>>): string {
  return template.replaceAll(/\{(\w+)\}/g, (_, name: string) => metadata[name] ?? "?")
}
