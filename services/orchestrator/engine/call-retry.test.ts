/** Whether a call is sent again, by what its attempt was, its effect and its policy. */
import { create, type MessageInitShape } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import { describe, expect, it } from "vitest"
import { AttemptFault, FailedAttemptSchema } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { RetryPolicySchema } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { waitBeforeRepeat } from "./call-retry.ts"

const retry = create(RetryPolicySchema, {
  maxAttempts: 4,
  initialBackoff: durationFromMs(100),
  maxBackoff: durationFromMs(250),
})
const failed = (changes: MessageInitShape<typeof FailedAttemptSchema>) =>
  create(FailedAttemptSchema, { fault: AttemptFault.LOST, retry, ...changes })

describe("a call whose attempt ended nothing", () => {
  const effects = ["read", "keyed", "unsafe"] as const
  it.each(effects)("that %ss is sent again only where that is safe", (effect) => {
    const isRepeated = Object.fromEntries(
      Object.values(AttemptFault)
        .filter((fault) => typeof fault === "number")
        .map((fault) => [fault, waitBeforeRepeat(failed({ fault }), effect, 1) !== undefined]),
    )
    expect(isRepeated).toEqual({
      [AttemptFault.UNSPECIFIED]: effect !== "unsafe",
      [AttemptFault.NOT_SENT]: true,
      [AttemptFault.LOST]: effect !== "unsafe",
      [AttemptFault.TOOL_ERROR]: effect !== "unsafe",
    })
  })

  it("has as many attempts as its policy allows, and none without one", () => {
    const waits = [1, 2, 3, 4, 5].map((attempts) => waitBeforeRepeat(failed({}), "keyed", attempts))
    expect(waits.map((wait) => wait !== undefined)).toEqual([true, true, true, false, false])
    const without = create(FailedAttemptSchema, { fault: AttemptFault.NOT_SENT })
    expect(waitBeforeRepeat(without, "keyed", 1)).toBeUndefined()
  })

  it("waits longer each time, up to the longest, with jitter", () => {
    for (const [attempts, longest] of [
      [1, 100],
      [2, 200],
      [3, 250],
    ] as const) {
      const waits = Array.from({ length: 50 }, () =>
        Number(waitBeforeRepeat(failed({}), "read", attempts)),
      )
      expect(Math.max(...waits)).toBeLessThanOrEqual(longest)
      expect(Math.min(...waits)).toBeGreaterThanOrEqual(longest / 2)
      expect(new Set(waits).size).toBeGreaterThan(10)
    }
  })

  it("waits as long as the provider asks for, if that is longer", () => {
    const wait = (ms: number) =>
      Number(waitBeforeRepeat(failed({ retryAfter: durationFromMs(ms) }), "keyed", 1))
    expect(wait(2_000)).toBe(2_000)
    expect(wait(1)).toBeGreaterThanOrEqual(50)
  })
})
