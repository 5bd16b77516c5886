import fc from "fast-check"
import { describe, expect, test } from "vitest"
import { kindOfAddress } from "./egress-address.ts"

describe("the kind of an address", () => {
  test.each([
    ["public", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111"]],
    ["public", ["::ffff:8.8.8.8", "64:ff9b::808:808", "2a00:1450:4001::200e"]],
    ["private", ["127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "::1"]],
    ["private", ["fd00::1", "fc00::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"]],
    ["forbidden", ["0.0.0.0", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255"]],
    ["forbidden", ["::", "fe80::1", "fe80::1%eth0", "ff02::1", "2001:db8::1", "fec0::1"]],
    ["forbidden", ["2002:808:808::1", "2001:0:808:808::1", "64:ff9b::7f00:1", "64:ff9b:1::1"]],
    ["forbidden", ["::169.254.169.254", "::8.8.8.8", "4000::1", "2606:4700::5efe:808:808"]],
    ["forbidden", ["", "localhost", "1", "0x7f.1", "127.1", "010.0.0.1.", "1.2.3.4.5", "::g"]],
  ])("%s: %s", (kind, addresses) => {
    for (const address of addresses)
      expect([address, kindOfAddress(address)]).toEqual([address, kind])
  })

  test("does not change with the way in which an IPv4 address is written into an IPv6 one", () => {
    fc.assert(
      fc.property(fc.ipV4(), (address) => {
        expect(kindOfAddress(`::ffff:${address}`)).toBe(kindOfAddress(address))
        const translated = kindOfAddress(`64:ff9b::${address}`)
        expect(translated).toBe(kindOfAddress(address) === "public" ? "public" : "forbidden")
        expect(kindOfAddress(`::${address}`)).not.toBe("public")
      }),
      { seed: 6, numRuns: 1_000 },
    )
  })
})
