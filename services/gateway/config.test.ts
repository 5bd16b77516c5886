import { expect, test } from "vitest"
import { readConfig } from "./config.ts"

const database = {
  GATEWAY_DATABASE_URL: "postgres://app:x@localhost:5432/gateway",
  GATEWAY_WORKER_DATABASE_URL: "postgres://worker:x@localhost:5432/gateway",
}

test("has defaults for everything but the database", () => {
  expect(readConfig(database)).toMatchObject({
    listen: "127.0.0.1:7100",
    membershipCacheMs: 5_000,
    operatorKeyHash: undefined,
  })
})

test("names every setting that is wrong, in one error", () => {
  const read = () =>
    readConfig({
      ...database,
      GATEWAY_LISTEN: "everywhere",
      GATEWAY_MEMBERSHIP_CACHE_MS: "5001",
      GATEWAY_OPERATOR_KEY_SHA256: "secret",
    })
  for (const name of ["LISTEN", "MEMBERSHIP_CACHE_MS", "OPERATOR_KEY_SHA256"]) {
    expect(read).toThrow(new RegExp(`GATEWAY_${name}`))
  }
})
