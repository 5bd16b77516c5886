/**
 * What proves to the next hop who is asking: a signed token over sockets, a pass within a process.
 *
 * 1. Both name one issuer and one audience and live for at most 60 s.
 * 2. One that names a call (run, step, digest) is accepted once by each verifier.
 * 3. A pass is made by nothing but a signer, which has the issuer's private key, and is taken only
 *    where that key is trusted for the issuer: who could forge one could sign as well.
 */
import { createHash, createPublicKey, type KeyObject } from "node:crypto"
import { errors as joseErrors, jwtVerify, SignJWT } from "jose"
import { z } from "zod"
import { RunwardenError } from "./errors.ts"
import { createExpiringMap } from "./expiring-map.ts"
import { type Caller, type ServiceName, type Subject, serviceNames } from "./identity.ts"
import { newId } from "./ids.ts"

/** Signs the next hop with this service's key. */
export interface Signer {
  readonly service: ServiceName
  sign(subject: Subject, audience: string): Promise<string>
  /** The same for a hop within this process, where nothing is encoded. */
  pass(subject: Subject, audience: string): HopPass
}

/** Verifies the hop that reached this service. */
export interface Verifier {
  /** Throws UNAUTHENTICATED for anything but a valid token of a trusted issuer for this service. */
  verify(token: string): Promise<Caller>
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

/** A signer that reuses a token for the same subject and audience until 15 s before it expires. */
export function createSigner(service: ServiceName, privateKey: KeyObject): Signer {
  const tokens = createExpiringMap<Promise<string>>(cacheSize)
  const publicKey = createPublicKey(privateKey)

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
