import { expect, it } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ConfigError } from "../../mesh/config.ts"
import { readConfig } from "./config.ts"

const urls = {
  ORCHESTRATOR_DATABASE_URL: "postgres://app:x@127.0.0.1/orchestrator",
  ORCHESTRATOR_WORKER_DATABASE_URL: "postgres://worker:x@127.0.0.1/orchestrator",
}

it("has a default for everything but the database", () => {
  const { executor, approval, watch, limits, runTimeoutMs } = readConfig(urls)
  expect(executor.leaseMs).toBe(10_000)
  expect(approval).toEqual({
    expiryMs: 86_400_000,
    approverRole: Role.APPROVER,
    isDistinctFromRequester: true,
    quorum: 1,
    allowsDelegation: false,
    allowsBreakGlass: false,
    maxOpen: 10_000,
  })
  expect(limits).toEqual({
    events: { warnAt: 2_000, most: 10_000 },
    payloadBytes: { warnAt: 2_097_152, most: 10_485_760 },
    maxSteps: 200,
    maxArgumentBytes: 131_072,
  })
  expect(watch.maxWatchers).toBe(1_000)
  expect(runTimeoutMs).toBe(86_400_000)
})

it("names every problem at once", () => {
  const env = { ORCHESTRATOR_LEASE_MS: "soon", ORCHESTRATOR_APPROVAL_ROLE: "viewer" }
  try {
    readConfig(env)
    expect.unreachable("a broken configuration was read")
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError)
    for (const name of [...Object.keys(urls), ...Object.keys(env)]) {
      expect(String(error)).toContain(name)
    }
  }
})
