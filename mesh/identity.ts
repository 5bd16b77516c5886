/**
 * Who is asking, from hop to hop: the places where handlers meet it are `callerOf` (who called me)
 * and `actingAs` / `outgoing` (for whom I call). What carries it is in `hop-tokens.ts`.
 *
 * A service takes workspace, actor and role from a verified token or pass and from nowhere else.
 */
import {
  type CallOptions,
  type ContextKey,
  createContextKey,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { defaultTimeoutMs, hopReserveMs, longestTimeoutMs, remainingMs } from "./deadline.ts"
import { RunwardenError } from "./errors.ts"

/** The services of the mesh, by the names that their tokens carry. */
export const serviceNames = [
  "gateway",
  "orchestrator",
  "tools",
  "moderation",
  "retrieval",
  "telemetry",
  "projects",
] as const

export type ServiceName = (typeof serviceNames)[number]

/** The header that carries the token from hop to hop. The gateway strips it from outside requests. */
export const identityHeader = "runwarden-identity"

/** The one call that a token was signed for. */
export interface CallClaims {
  readonly runId: string
  readonly stepIndex: number
  /** SHA-256 (hex) of the canonical arguments. */
  readonly digest: string
}

/** For whom a call is made. */
export interface Subject {
  readonly kind: "member" | "service" | "operator"
  /** Empty only for an operator, and for calls outside any workspace. */
  readonly workspaceId: string
  readonly actorId: string
  /** `Role.UNSPECIFIED` unless a member. */
  readonly role: Role
  readonly call?: CallClaims
}

/** A verified subject, and the service that signed for it. */
export interface Caller extends Subject {
  readonly issuer: ServiceName
}

/** Where a server transport or the identity interceptor leaves the verified caller. */
export const callerKey: ContextKey<Caller | undefined> = createContextKey<Caller | undefined>(
  undefined,
  { description: "the verified caller" },
)

/** Where `actingAs` leaves the subject for the client's identity interceptor. */
export const subjectKey: ContextKey<Subject | undefined> = createContextKey<Subject | undefined>(
  undefined,
  { description: "for whom this call is made" },
)

/**
 * Where the token travels within a process, which has no headers to parse. It is the same token, and
 * verified in the same way.
 */
export const hopTokenKey: ContextKey<string | undefined> = createContextKey<string | undefined>(
  undefined,
  { description: "the signed identity of this hop" },
)

/** The verified caller of a request. Throws UNAUTHENTICATED where the chain left none. */
export function callerOf(context: Pick<HandlerContext, "values">): Caller {
  const caller = context.values.get(callerKey)
  if (caller === undefined) throw new RunwardenError("UNAUTHENTICATED")
  return caller
}

/** A member of a workspace, as the gateway found it. */
export function memberSubject(workspaceId: string, actorId: string, role: Role): Subject {
  return { kind: "member", workspaceId, actorId, role }
}

/** A service on its own behalf, such as one that delivers an outbox. */
export function serviceSubject(service: ServiceName, workspaceId: string): Subject {
  return { kind: "service", workspaceId, actorId: `service:${service}`, role: Role.UNSPECIFIED }
}

/**
 * Options for a client call on behalf of a subject. The deadline defaults to 10 s; 0 sets none and
 * is for streams, which end by their signal.
 */
export function actingAs(
  subject: Subject,
  options: {
    readonly signal?: AbortSignal
    readonly timeoutMs?: number
    readonly call?: CallClaims
  } = {},
): CallOptions {
  const named = options.call === undefined ? subject : { ...subject, call: options.call }
  return {
    contextValues: createContextValues().set(subjectKey, named),
    timeoutMs: Math.min(options.timeoutMs ?? defaultTimeoutMs, longestTimeoutMs),
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  }
}

/**
 * Options for a client call made while handling a request: for the request's own subject, under its
 * signal, with what remains of its deadline less a reserve for the way back.
 */
export function outgoing(
  context: HandlerContext,
  options: { readonly call?: CallClaims } = {},
): CallOptions {
  const { issuer: _, ...subject } = callerOf(context)
  const remaining = remainingMs(context)
  return actingAs(subject, {
    ...options,
    signal: context.signal,
    timeoutMs: remaining === undefined ? defaultTimeoutMs : Math.max(1, remaining - hopReserveMs),
  })
}
