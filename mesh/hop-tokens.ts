/**
 * What proves to the next hop who is asking: a signed token over sockets, a pass within a process.
 *
 * 1. Both name one issuer and one audience and live for at most 60 s.
 * 2. One that names a call (run, step, digest) is accepted once by each verifier.
 * 3. A pass is made by nothing but a signer, which has the issuer's private key, and is taken only
 *    where that key is trusted for the issuer: who could forge one could sign as well.
 */
import { createHash, createPublicKey, type KeyObject } from "node:crypto"
import { type JWTPayload, errors as joseErrors, jwtVerify, SignJWT } from "jose"
import { z } from "zod"
import { RunwardenError } from "./errors.ts"
import { createExpiringMap, wallClock } from "./expiring-map.ts"
import { type Caller, type ServiceName, type Subject, serviceNames } from "./identity.ts"
import { newId } from "./ids.ts"

/** Signs the next hop with this service's key. */
export interface Signer {
  readonly service: ServiceName
  sign(subject: Subject, audience: string): Promise<string>
  /**
   * One token for several subjects, each of which names a call: a signature is what a token costs.
   * It stands for its callers in the order of the subjects.
   */
  signCalls(subjects: readonly Subject[], audience: string): Promise<string>
  /** The same for a hop within this process, where nothing is encoded. */
  pass(subject: Subject, audience: string): HopPass
}

/** Verifies the hop that reached this service. */
export interface Verifier {
  /** Throws UNAUTHENTICATED for anything but a valid token of a trusted issuer for this service. */
  verify(token: string): Promise<Caller>
  /** The same for any token: the callers that it stands for, which are several for `signCalls`. */
  verifyAll(token: string): Promise<readonly Caller[]>
  /** Throws UNAUTHENTICATED for anything but a valid pass of a trusted issuer for this service. */
  accept(pass: HopPass): Caller
}

export type { HopPass }

const tokenLifeMs = 60_000
const reuseMarginMs = 15_000
const clockToleranceSeconds = 2
const cacheSize = 10_000
const tokenType = "runwarden-hop+jwt"

/** Not exported as a value: nobody but a signer makes one. */
class HopPass {
  readonly #publicKey: KeyObject
  readonly #caller: Caller
  readonly #audience: string
  readonly #until: number
  #isUsed = false

  constructor(publicKey: KeyObject, caller: Caller, audience: string) {
    this.#publicKey = publicKey
    this.#caller = caller
    this.#audience = audience
    this.#until = Date.now() + tokenLifeMs
  }

  /** The caller, for a verifier of the audience that trusts the key for the issuer. */
  static open(
    pass: HopPass,
    audience: string,
    isTrusted: (issuer: ServiceName, publicKey: KeyObject) => boolean,
  ): Caller {
    // Of what no signer made, reading this throws.
    const caller = pass.#caller
    if (!isTrusted(caller.issuer, pass.#publicKey)) throw new Error("not its issuer's key")
    if (pass.#audience !== audience) throw new Error("for somebody else")
    if (caller.actorId === "") throw new Error("for nobody")
    if (Date.now() > pass.#until) throw new Error("too old")
    if (caller.call === undefined) return caller
    if (pass.#isUsed) throw new Error("used before")
    pass.#isUsed = true
    return caller
  }
}

/**
 * A signer that reuses a token for the same subject and audience until 15 s before it expires, but
 * none from a time that is yet to come: a clock that was ahead must not outlast its correction.
 */
export function createSigner(service: ServiceName, privateKey: KeyObject): Signer {
  const tokens = createExpiringMap<{
    readonly token: Promise<string>
    readonly issueTime: number
  }>(wallClock, cacheSize)
  const publicKey = createPublicKey(privateKey)

  function issue(actorId: string, audience: string, claims: JWTPayload): Promise<string> {
    const issuedAt = Math.floor(Date.now() / 1000)
    return new SignJWT(claims)
      .setProtectedHeader({ alg: "EdDSA", typ: tokenType, kid: service })
      .setIssuer(service)
      .setAudience(audience)
      .setSubject(actorId)
      .setIssuedAt(issuedAt)
      .setExpirationTime(issuedAt + tokenLifeMs / 1000)
      .sign(privateKey)
  }

  function issueFor({ call, ...subject }: Subject, audience: string): Promise<string> {
    const claims = { ws: subject.workspaceId, kind: subject.kind, role: subject.role }
    if (call === undefined) return issue(subject.actorId, audience, claims)
    const named = { run: call.runId, step: call.stepIndex, dig: call.digest, jti: newId() }
    return issue(subject.actorId, audience, { ...claims, ...named })
  }

  return {
    service,
    sign(subject, audience) {
      if (subject.call !== undefined) return issueFor(subject, audience)
      const { kind, role, workspaceId, actorId } = subject
      // The lengths keep two subjects apart whose names hold spaces.
      const key = `${kind} ${role} ${workspaceId.length} ${workspaceId} ${audience.length} ${audience} ${actorId}`
      const now = Date.now()
      const held = tokens.get(key)
      if (held !== undefined && held.issueTime <= now) return held.token
      const token = issueFor(subject, audience)
      tokens.set(key, { token, issueTime: now }, now + tokenLifeMs - reuseMarginMs)
      return token
    },

    signCalls(subjects, audience) {
      const calls = subjects.map(({ workspaceId, kind, role, actorId, call }) => {
        if (call === undefined) throw new Error("a subject that names no call has its own token")
        return [workspaceId, kind, role, actorId, call.runId, call.stepIndex, call.digest]
      })
      return issue(`service:${service}`, audience, { calls, jti: newId() })
    },

    pass({ kind, workspaceId, actorId, role, call }, audience) {
      const subject = { issuer: service, kind, workspaceId, actorId, role }
      return new HopPass(
        publicKey,
        call === undefined ? subject : { ...subject, call: { ...call } },
        audience,
      )
    },
  }
}

const nameSchema = z.enum(serviceNames)

const kindSchema = z.enum(["member", "service", "operator"])
const roleSchema = z.union([z.literal(0), z.literal(1), z.literal(2), z.literal(3), z.literal(4)])
const actorSchema = z.string().min(1)

/** What every token says. */
const tokenSchema = z.object({
  iss: nameSchema,
  sub: actorSchema,
  exp: z.number(),
  iat: z.number(),
  jti: z.string().optional(),
})

/** What a token says of one subject. */
const subjectSchema = z.object({
  ws: z.string(),
  kind: kindSchema,
  role: roleSchema,
  run: z.string().optional(),
  step: z.number().optional(),
  dig: z.string().optional(),
})

/** What a token says of several, each with its call. */
const callsSchema = z
  .array(
    z.tuple([z.string(), kindSchema, roleSchema, actorSchema, z.string(), z.number(), z.string()]),
  )
  .min(1)

/** What a token proves. One that names calls has an id, and is taken once. */
interface Proof {
  readonly callers: readonly Caller[]
  readonly isOne: boolean
  readonly until: number
  readonly jti?: string
}

/**
 * A verifier of tokens for `service`, signed by one of the trusted issuers' Ed25519 keys. Verified
 * tokens are remembered until they expire; those that name a call are taken once.
 */
export function createVerifier(
  service: ServiceName,
  trusted: ReadonlyMap<ServiceName, KeyObject>,
): Verifier {
  const verified = createExpiringMap<Caller>(wallClock, cacheSize)
  // No capacity: an id that is forgotten before its token expires could be used again.
  const used = createExpiringMap<true>(wallClock)

  async function check(token: string): Promise<Proof> {
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
    const { iss, sub, exp, iat, jti } = tokenSchema.parse(payload)
    if (iss !== protectedHeader.kid) throw new joseErrors.JWTInvalid("not its issuer's key")
    // A token that claims more would be remembered for longer than any may live.
    if (exp - iat > tokenLifeMs / 1000) throw new joseErrors.JWTInvalid("too long")
    const until = exp * 1000
    if (payload.calls === undefined) {
      const caller = callerOfClaims(iss, sub, payload)
      if (caller.call === undefined) return { callers: [caller], isOne: true, until }
      if (jti === undefined) throw new Error("a call without an id")
      return { callers: [caller], isOne: true, until, jti }
    }
    if (jti === undefined) throw new Error("calls without an id")
    return { callers: callersOfCalls(iss, payload.calls), isOne: false, until, jti }
  }

  function takeOnce(jti: string, until: number): void {
    if (used.get(jti) !== undefined) throw new Error("used before")
    used.set(jti, true, until + clockToleranceSeconds * 1000)
  }

  async function proved(token: string, mustBeOne: boolean): Promise<readonly Caller[]> {
    try {
      const { callers, isOne, until, jti } = await check(token)
      if (mustBeOne && !isOne) throw new Error("for several")
      const [caller] = callers
      if (jti !== undefined) takeOnce(jti, until)
      else if (caller !== undefined) verified.set(token, caller, until)
      return callers
    } catch (error) {
      throw new RunwardenError("UNAUTHENTICATED", {}, { cause: error })
    }
  }

  const proven = new Map<ServiceName, KeyObject>()
  function isTrusted(issuer: ServiceName, publicKey: KeyObject): boolean {
    if (proven.get(issuer) === publicKey) return true
    if (trusted.get(issuer)?.equals(publicKey) !== true) return false
    proven.set(issuer, publicKey)
    return true
  }

  return {
    accept(pass) {
      try {
        return HopPass.open(pass, service, isTrusted)
      } catch (error) {
        throw new RunwardenError("UNAUTHENTICATED", {}, { cause: error })
      }
    },

    async verify(token) {
      const held = verified.get(token)
      if (held !== undefined) return held
      const [caller] = await proved(token, true)
      if (caller === undefined) throw new RunwardenError("UNAUTHENTICATED")
      return caller
    },

    async verifyAll(token) {
      const held = verified.get(token)
      return held === undefined ? proved(token, false) : [held]
    },
  }
}

function callerOfClaims(issuer: ServiceName, actorId: string, payload: unknown): Caller {
  const { ws, kind, role, run, step, dig } = subjectSchema.parse(payload)
  const subject = { issuer, kind, workspaceId: ws, actorId, role }
  if (run === undefined) return subject
  if (step === undefined || dig === undefined) throw new Error("half a call")
  return { ...subject, call: { runId: run, stepIndex: step, digest: dig } }
}

function callersOfCalls(issuer: ServiceName, calls: unknown): readonly Caller[] {
  return callsSchema
    .parse(calls)
    .map(([workspaceId, kind, role, actorId, runId, stepIndex, digest]) => {
      const call = { runId, stepIndex, digest }
      return { issuer, kind, workspaceId, actorId, role, call }
    })
}

/** A short name for a token in logs: it says which, and is of no use to anybody. */
export function tokenFingerprint(token: string): string {
  return createHash("sha256").update(token).digest("hex").slice(0, 12)
}
