import fc from "fast-check"
import { expect, test } from "vitest"
import { hashKey, isWellFormedKey, mintKey, prefixOf } from "./api-key.ts"

test("a minted key has the documented form, its prefix and its hash", () => {
  for (let count = 0; count < 200; count++) {
    const key = mintKey()
    expect(key.secret).toMatch(/^rw_[0-9A-Za-z]{8}_[\w-]{43}_[0-9A-Za-z]{6}$/)
    expect(isWellFormedKey(key.secret)).toBe(true)
    expect(prefixOf(key.secret)).toBe(key.prefix)
    expect(hashKey(key.secret)).toEqual(key.hash)
  }
})

test("minted keys differ in prefix and secret", () => {
  const keys = Array.from({ length: 500 }, () => mintKey())
  expect(new Set(keys.map((key) => key.prefix)).size).toBe(500)
  expect(new Set(keys.map((key) => key.secret)).size).toBe(500)
})

test("any single changed, swapped or missing character is found without a query", () => {
  const { secret } = mintKey()
  const alphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
  const place = fc.integer({ min: 0, max: secret.length - 1 })
  fc.assert(
    fc.property(place, fc.constantFrom(...alphabet), (index, letter) => {
      const changed = secret.slice(0, index) + letter + secret.slice(index + 1)
      expect(isWellFormedKey(changed)).toBe(changed === secret)
      expect(isWellFormedKey(secret.slice(0, index) + secret.slice(index + 1))).toBe(false)
    }),
    { seed: 7, numRuns: 2_000 },
  )
})

test("other texts are no keys", () => {
  fc.assert(
    fc.property(fc.string({ maxLength: 300 }), (text) => !isWellFormedKey(text)),
    { seed: 11 },
  )
})
