import { randomBytes } from "node:crypto"
import { inspect } from "node:util"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { newId } from "../../../mesh/ids.ts"
import { createKeyring, keyringSetting, SealBroken } from "./keyring.ts"
import { Secret } from "./secret.ts"

const [one, two] = [randomBytes(32), randomBytes(32)]
const ring = createKeyring(new Map([["one", one]]))
const place = { workspaceId: newId(), providerId: newId(), name: "authorization" }

describe("what is sealed", () => {
  it("opens at its place, with any key of the ring, and is another text each time", () => {
    fc.assert(
      fc.property(fc.string(), (value) => {
        const sealed = ring.seal(place, value)
        expect(ring.open(place, sealed).reveal()).toBe(value)
        const later = createKeyring(
          new Map([
            ["two", two],
            ["one", one],
          ]),
        )
        expect(later.open(place, sealed).reveal()).toBe(value)
        expect(later.seal(place, value).key_id).toBe("two")
        expect(ring.seal(place, value).sealed.equals(sealed.sealed)).toBe(false)
      }),
      { seed: 4, numRuns: 50 },
    )
  })

  it.each([
    ["another workspace", { workspaceId: newId() }],
    ["another provider", { providerId: newId() }],
    ["another name", { name: "x-api-key" }],
  ])("does not open for %s", (_, other) => {
    const sealed = ring.seal(place, "secret")
    expect(() => ring.open({ ...place, ...other }, sealed)).toThrow(SealBroken)
  })

  it("does not open with one bit flipped, wherever it is", () => {
    const sealed = ring.seal(place, "secret")
    for (const part of ["nonce", "sealed"] as const) {
      for (let bit = 0; bit < sealed[part].length * 8; bit++) {
        const broken = Buffer.from(sealed[part])
        broken[bit >> 3] = (broken[bit >> 3] ?? 0) ^ (1 << (bit & 7))
        expect(() => ring.open(place, { ...sealed, [part]: broken })).toThrow(SealBroken)
      }
    }
    for (const sealedTo of [Buffer.alloc(0), sealed.sealed.subarray(0, 10)]) {
      expect(() => ring.open(place, { ...sealed, sealed: sealedTo })).toThrow(SealBroken)
    }
  })

  it("does not open without its key, nor with another one under its name", () => {
    const sealed = ring.seal(place, "secret")
    const other = createKeyring(new Map([["two", two]]))
    expect(() => other.open(place, sealed)).toThrow(/key one is not in TOOLS_CREDENTIAL_KEYS/)
    const wrong = createKeyring(new Map([["one", two]]))
    expect(() => wrong.open(place, sealed)).toThrow(/not what was stored/)
    // Nor under the name of another key, as a row that was changed would say.
    const both = createKeyring(
      new Map([
        ["two", one],
        ["one", one],
      ]),
    )
    expect(() => both.open(place, { ...sealed, key_id: "two" })).toThrow(SealBroken)
  })
})

describe("the setting", () => {
  it("is read, the first key seals", () => {
    const text = `a:${one.toString("base64")}, b:${two.toString("base64")}`
    expect(keyringSetting.parse(text)).toMatchObject({ keyIds: ["a", "b"], primaryId: "a" })
  })

  it.each([
    ["no key", "a:"],
    ["a short key", `a:${Buffer.alloc(16).toString("base64")}`],
    ["no id", one.toString("base64")],
    ["one id twice", `a:${one.toString("base64")},a:${two.toString("base64")}`],
  ])("is refused for %s, without a word of the keys", (_, text) => {
    const { error } = keyringSetting.safeParse(text)
    expect(error?.issues.length).toBeGreaterThan(0)
    expect(JSON.stringify(error?.issues)).not.toContain(one.toString("base64"))
  })
})

it("a secret is printed by nothing", () => {
  const secret = new Secret("canary-5f2e")
  const held = { headers: { authorization: secret } }
  const printed = [
    `${secret}`,
    String(secret),
    JSON.stringify(held),
    inspect(held, { depth: 9, showHidden: true }),
  ]
  expect(printed.join()).not.toContain("canary")
  expect(secret.reveal()).toBe("canary-5f2e")
})
