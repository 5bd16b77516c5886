// What a verifier takes and what it refuses: each forgery is one that has broken a real system.
import { createHmac, generateKeyPairSync } from "node:crypto"
import { SignJWT } from "jose"
import { afterEach, describe, expect, test, vi } from "vitest"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { createExpiringMap, wallClock } from "./expiring-map.ts"
import { createSigner, createVerifier } from "./hop-tokens.ts"
import { memberSubject, serviceSubject } from "./identity.ts"
import { generateMeshKeys } from "./keys.ts"

const workspaceId = "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51"
const actorId = "0199f1c2-7d4e-7c3a-9b1f-000000000001"
const keys = generateMeshKeys()
const subject = memberSubject(workspaceId, actorId, Role.MEMBER)

function keyOf(name: "gateway" | "orchestrator") {
  const key = keys.private.get(name)
  if (key === undefined) throw new Error("no key")
  return key
}

function claims(change: Record<string, unknown> = {}) {
  const now = Math.floor(Date.now() / 1000)
  return {
    iss: "gateway",
    aud: "tools",
    sub: actorId,
    iat: now,
    exp: now + 60,
    ws: workspaceId,
    kind: "member",
    role: Role.MEMBER,
    ...change,
  }
}

function sign(payload: object, header: object = {}, key = keyOf("gateway")): Promise<string> {
  return new SignJWT({ ...payload })
    .setProtectedHeader({ alg: "EdDSA", typ: "runwarden-hop+jwt", kid: "gateway", ...header })
    .sign(key)
}

function encode(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString("base64url")
}

describe("a token that a service signed", () => {
  const signer = createSigner("gateway", keyOf("gateway"))

  test("names its subject and its issuer to the audience", async () => {
    const caller = await createVerifier("tools", keys.trusted).verify(
      await signer.sign(subject, "tools"),
    )
    expect(caller).toEqual({ ...subject, issuer: "gateway" })
  })

  test("is the same one until it nears its end, but never across subjects or audiences", async () => {
    const first = await signer.sign(subject, "tools")
    expect(await signer.sign(subject, "tools")).toBe(first)
    expect(await signer.sign(subject, "projects")).not.toBe(first)
    expect(await signer.sign({ ...subject, role: Role.ADMIN }, "tools")).not.toBe(first)
    expect(await signer.sign(serviceSubject("gateway", workspaceId), "tools")).not.toBe(first)
  })

  test("is made anew when the clock that it was made by has been set back", async () => {
    const signer = createSigner("gateway", keyOf("gateway"))
    const verifier = createVerifier("tools", keys.trusted)
    const now = Date.now()
    vi.useFakeTimers({ now: now + 3_600_000 })
    const early = await signer.sign(subject, "tools")
    vi.setSystemTime(now)
    await expect(verifier.verify(early)).rejects.toMatchObject({ reason: "UNAUTHENTICATED" })
    await verifier.verify(await signer.sign(subject, "tools"))
    vi.useRealTimers()
  })

  test("that names a call carries run, step and digest, and is taken once", async () => {
    const call = { runId: workspaceId, stepIndex: 3, digest: "ab".repeat(32) }
    const verifier = createVerifier("tools", keys.trusted)
    const token = await signer.sign({ ...subject, call }, "tools")
    expect((await verifier.verify(token)).call).toEqual(call)
    await expect(verifier.verify(token)).rejects.toMatchObject({ reason: "UNAUTHENTICATED" })
    const again = await signer.sign({ ...subject, call }, "tools")
    expect((await verifier.verify(again)).call).toEqual(call)
  })
})

describe("a pass within the process", () => {
  const signer = createSigner("gateway", keyOf("gateway"))
  const verifier = createVerifier("tools", keys.trusted)
  const refused = expect.objectContaining({ reason: "UNAUTHENTICATED" })

  test("names its subject and its issuer to the audience, and to nobody else", () => {
    expect(verifier.accept(signer.pass(subject, "tools"))).toEqual({
      ...subject,
      issuer: "gateway",
    })
    const other = createVerifier("projects", keys.trusted)
    expect(() => other.accept(signer.pass(subject, "tools"))).toThrow(refused)
  })

  test("that names a call is taken once", () => {
    const call = { runId: workspaceId, stepIndex: 3, digest: "ab".repeat(32) }
    const pass = signer.pass({ ...subject, call }, "tools")
    expect(verifier.accept(pass).call).toEqual(call)
    expect(() => verifier.accept(pass)).toThrow(refused)
  })

  test("is refused from a key that is not the issuer's, trusted or not", () => {
    const thief = createSigner("gateway", keyOf("orchestrator"))
    expect(() => verifier.accept(thief.pass(subject, "tools"))).toThrow(refused)
    const stranger = createSigner("gateway", generateKeyPairSync("ed25519").privateKey)
    expect(() => verifier.accept(stranger.pass(subject, "tools"))).toThrow(refused)
    const untrusting = createVerifier("tools", new Map())
    expect(() => untrusting.accept(signer.pass(subject, "tools"))).toThrow(refused)
  })

  test("is refused when nobody made it, when it is old, and when it is for nobody", () => {
    const pass = signer.pass(subject, "tools")
    const copy = Object.assign(Object.create(Object.getPrototypeOf(pass)), pass)
    expect(() => verifier.accept(copy)).toThrow(refused)
    expect(() => verifier.accept({} as never)).toThrow(refused)
    const nobody = memberSubject(workspaceId, "", Role.MEMBER)
    expect(() => verifier.accept(signer.pass(nobody, "tools"))).toThrow(refused)
    vi.useFakeTimers({ now: Date.now() + 61_000 })
    expect(() => verifier.accept(pass)).toThrow(refused)
    vi.useRealTimers()
  })
})

describe("what is remembered", () => {
  afterEach(() => {
    vi.useRealTimers()
  })

  test("a single-use id is refused as long as its token would pass, and forgotten after", async () => {
    vi.useFakeTimers({ now: 1_800_000_000_000 })
    const verifier = createVerifier("tools", keys.trusted)
    const signer = createSigner("gateway", keyOf("gateway"))
    const call = { runId: workspaceId, stepIndex: 3, digest: "ab".repeat(32) }
    const token = await signer.sign({ ...subject, call }, "tools")
    await verifier.verify(token)
    // Others come and go meanwhile, which is when the verifier forgets.
    for (let second = 0; second < 70; second += 1) {
      vi.advanceTimersByTime(1_000)
      await verifier.verify(await signer.sign({ ...subject, call }, "tools"))
      await expect(verifier.verify(token)).rejects.toMatchObject({ reason: "UNAUTHENTICATED" })
    }
  })

  test("ends with its time, and the oldest goes first where there is no room", () => {
    vi.useFakeTimers({ now: 0 })
    const map = createExpiringMap<number>(wallClock, 3)
    for (const key of ["a", "b", "c", "d"]) map.set(key, 1, 1_000)
    expect(["a", "b", "c", "d"].map((key) => map.get(key))).toEqual([undefined, 1, 1, 1])
    vi.advanceTimersByTime(1_000)
    expect(map.get("d")).toBeUndefined()
    map.set("e", 1, 2_000)
    expect(map.size).toBe(1)
  })
})

test("the forging helper makes a valid token where nothing is forged", async () => {
  const caller = await createVerifier("tools", keys.trusted).verify(await sign(claims()))
  expect(caller.workspaceId).toBe(workspaceId)
})

const now = Math.floor(Date.now() / 1000)
const stranger = generateKeyPairSync("ed25519")
const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 })
const publicDer = keys.trusted.get("gateway")?.export({ format: "der", type: "spki" }) ?? ""
const hmacInput = `${encode({ alg: "HS256", typ: "runwarden-hop+jwt", kid: "gateway" })}.${encode(claims())}`

const forgeries: Record<string, () => string | Promise<string>> = {
  "nothing at all": () => "",
  "no token": () => "not.a.token",
  "no signature (alg none)": () =>
    `${encode({ alg: "none", typ: "runwarden-hop+jwt", kid: "gateway" })}.${encode(claims())}.`,
  "HS256 with the public key": () =>
    `${hmacInput}.${createHmac("sha256", publicDer).update(hmacInput).digest("base64url")}`,
  "RS256 with another key": () => sign(claims(), { alg: "RS256" }, rsa.privateKey),
  "a stranger's key": () => sign(claims(), {}, stranger.privateKey),
  "an embedded jwk": () =>
    sign(claims(), { jwk: stranger.publicKey.export({ format: "jwk" }) }, stranger.privateKey),
  "a jku": () => sign(claims(), { jku: "http://127.0.0.1:9/keys" }, stranger.privateKey),
  "an unknown kid": () => sign(claims(), { kid: "nobody" }),
  "a kid that is a path": () => sign(claims(), { kid: "../../gateway" }),
  "a kid that is SQL": () => sign(claims(), { kid: "gateway' or '1'='1" }),
  "no kid": () => sign(claims(), { kid: undefined }),
  "another service's key under this issuer": () =>
    sign(claims(), { kid: "orchestrator" }, keyOf("orchestrator")),
  "another type": () => sign(claims(), { typ: "JWT" }),
  "another audience": () => sign(claims({ aud: "projects" })),
  "no audience": () => sign(claims({ aud: undefined })),
  "an unknown issuer": () => sign(claims({ iss: "mallory" })),
  expired: () => sign(claims({ iat: now - 120, exp: now - 60 })),
  "too long a life": () => sign(claims({ iat: now - 600, exp: now + 600 })),
  "a life of an hour": () => sign(claims({ exp: now + 3_600 })),
  "not yet valid": () => sign(claims({ nbf: now + 600 })),
  "issued in the future": () => sign(claims({ iat: now + 600, exp: now + 660 })),
  "no expiry": () => sign(claims({ exp: undefined })),
  "no subject": () => sign(claims({ sub: undefined })),
  "no workspace": () => sign(claims({ ws: undefined })),
  "an unknown kind": () => sign(claims({ kind: "root" })),
  "an unknown role": () => sign(claims({ role: 9 })),
  "half a call": () => sign(claims({ run: workspaceId })),
}

describe("a verifier refuses", () => {
  const verifier = createVerifier("tools", keys.trusted)
  for (const [name, forge] of Object.entries(forgeries)) {
    test(name, async () => {
      await expect(verifier.verify(await forge())).rejects.toMatchObject({
        reason: "UNAUTHENTICATED",
        message: "A valid API key or token is required.",
      })
    })
  }

  test("a changed byte of a token it has taken before", async () => {
    const token = await sign(claims())
    await verifier.verify(token)
    const changed = `${token.slice(0, -2)}${token.endsWith("A") ? "BB" : "AA"}`
    await expect(verifier.verify(changed)).rejects.toMatchObject({ reason: "UNAUTHENTICATED" })
  })
})
