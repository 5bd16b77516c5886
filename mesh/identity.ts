/**
 * Who is asking, from hop to hop.
 *
 * Owns: the short-lived token with which every service signs its next hop, its verification, and
 * the two places where handlers meet it: `callerOf` (who called me) and `actingAs` / `outgoing`
 * (for whom I call).
 *
 * Invariants:
 * 1. A service takes workspace, actor and role from a verified token and from nowhere else.
 * 2. A token names one issuer and one audience and lives for at most 60 s.
 * 3. A token that names a call (run, step, digest) is accepted once by each verifier.
 */
import { createHash, type KeyObject } from "node:crypto"
import {
  type CallOptions,
  type ContextKey,
  createContextKey,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect"
import { errors as joseErrors, jwtVerify, SignJWT } from "jose"
import { z } from "zod"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { defaultTimeoutMs, hopReserveMs, longestTimeoutMs } from "./deadline.ts"
import { RunwardenError } from "./errors.ts"
import { createExpiringMap } from "./expiring-map.ts"
import { newId } from "./ids.ts"

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
  const remaining = context.timeoutMs()
  return actingAs(subject, {
    ...options,
    signal: context.signal,
    timeoutMs: remaining === undefined ? defaultTimeoutMs : Math.max(1, remaining - hopReserveMs),
  })
}

/** Signs the next hop with this service's key. */
export interface Signer {
  readonly service: ServiceName
  sign(subject: Subject, audience: string): Promise<string>
}

/** Verifies the hop that reached this service. */
export interface Verifier {
  /** Throws UNAUTHENTICATED for anything but a valid token of a trusted issuer for this service. */
  verify(token: string): Promise<Caller>
}

const tokenLifeMs = 60_000
const reuseMarginMs = 15_000
const clockToleranceSeconds = 2
const cacheSize = 10_000
const tokenType = "runwarden-hop+jwt"

/** A signer that reuses a token for the same subject and audience until 15 s before it expires. */
export function createSigner(service: ServiceName, privateKey: KeyObject): Signer {
  const tokens = createExpiringMap<Promise<string>>(cacheSize)

  function issue(subject: Subject, audience: string): Promise<string> {
    const issuedAt = Math.floor(Date.now() / 1000)
    const { call } = subject
    const token = new SignJWT({
      ws: subject.workspaceId,
      kind: subject.kind,
      role: subject.role,
      ...(call === undefined
        ? {}
        : { run: call.runId, step: call.stepIndex, dig: call.digest, jti: newId() }),
    })
    return token
      .setProtectedHeader({ alg: "EdDSA", typ: tokenType, kid: service })
      .setIssuer(service)
      .setAudience(audience)
      .setSubject(subject.actorId)
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + tokenLifeMs / 1000)
      .sign(privateKey)
  }

  return {
    service,
    sign(subject, audience) {
      if (subject.call !== undefined) return issue(subject, audience)
      const { kind, role, workspaceId, actorId } = subject
      // The lengths keep two subjects apart whose names hold spaces.
      const key = `${kind} ${role} ${workspaceId.length} ${workspaceId} ${audience.length} ${audience} ${actorId}`
      const held = tokens.get(key)
      if (held !== undefined) return held
      const token = issue(subject, audience)
      tokens.set(key, token, Date.now() + tokenLifeMs - reuseMarginMs)
      return token
    },
  }
}

const nameSchema = z.enum(serviceNames)

const claimsSchema = z.object({
  iss: nameSchema,
  sub: z.string().min(1),
  exp: z.number(),
  iat: z.number(),
  ws: z.string(),
  kind: z.enum(["member", "service", "operator"]),
  role: z.union([z.literal(0), z.literal(1), z.literal(2), z.literal(3), z.literal(4)]),
  run: z.string().optional(),
  step: z.number().optional(),
  dig: z.string().optional(),
  jti: z.string().optional(),
})

/**
 * A verifier of tokens for `service`, signed by one of the trusted issuers' Ed25519 keys. Verified
 * tokens are remembered until they expire; those that name a call are taken once.
 */
export function createVerifier(
  service: ServiceName,
  trusted: ReadonlyMap<ServiceName, KeyObject>,
): Verifier {
  const verified = createExpiringMap<Caller>(cacheSize)
  // No capacity: an id that is forgotten before its token expires could be used again.
  const used = createExpiringMap<true>()

  async function check(token: string): Promise<{ caller: Caller; until: number; jti?: string }> {
    const { payload, protectedHeader } = await jwtVerify(
      token,
      ({ kid }) => {
        const key = trusted.get(nameSchema.parse(kid))
        if (key === undefined) throw new joseErrors.JWKSNoMatchingKey()
        return key
      },
      {
        audience: service,
        algorithms: ["EdDSA"],
        typ: tokenType,
        maxTokenAge: tokenLifeMs / 1000,
        clockTolerance: clockToleranceSeconds,
        requiredClaims: ["exp", "iat", "iss", "sub"],
      },
    )
    const claims = claimsSchema.parse(payload)
    if (claims.iss !== protectedHeader.kid) throw new joseErrors.JWTInvalid("not its issuer's key")
    // A token that claims more would be remembered for longer than any may live.
    if (claims.exp - claims.iat > tokenLifeMs / 1000) throw new joseErrors.JWTInvalid("too long")
    const until = claims.exp * 1000
    const subject = {
      issuer: claims.iss,
      kind: claims.kind,
      workspaceId: claims.ws,
      actorId: claims.sub,
      role: claims.role,
    }
    if (claims.run === undefined) return { caller: subject, until }
    const { run, step, dig, jti } = claims
    if (step === undefined || dig === undefined || jti === undefined) throw new Error("half a call")
    return {
      caller: { ...subject, call: { runId: run, stepIndex: step, digest: dig } },
      until,
      jti,
    }
  }

  function takeOnce(jti: string, until: number): void {
    if (used.get(jti) !== undefined) throw new Error("used before")
    used.set(jti, true, until + clockToleranceSeconds * 1000)
  }

  return {
    async verify(token) {
      const held = verified.get(token)
      if (held !== undefined) return held
      try {
        const { caller, until, jti } = await check(token)
        if (jti === undefined) verified.set(token, caller, until)
        else takeOnce(jti, until)
        return caller
      } catch (error) {
        throw new RunwardenError("UNAUTHENTICATED", {}, { cause: error })
      }
    },
  }
}

/** A short name for a token in logs: it says which, and is of no use to anybody. */
export function tokenFingerprint(token: string): string {
  return createHash("sha256").update(token).digest("hex").slice(0, 12)
}
