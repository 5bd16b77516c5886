/** Retry policies: what a definition may say, what holds where it says nothing. */
import { create, type MessageInitShape } from "@bufbuild/protobuf"
import { durationFromMs, durationMs } from "@bufbuild/protobuf/wkt"
import { describe, expect, it } from "vitest"
import {
  Effect,
  RetryPolicySchema,
  type ToolDefinition,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { definition } from "../../../mesh/fixtures/fake-provider.ts"
import { readDefinition } from "./definition.ts"
import { retryPolicyOf } from "./retry-policy.ts"

type Declared = MessageInitShape<typeof RetryPolicySchema>

const tool = (retry?: Declared, effect: Effect = Effect.KEYED): ToolDefinition =>
  definition("create", {
    effect,
    ...(retry === undefined ? {} : { retry: create(RetryPolicySchema, retry) }),
  })

describe("the policy that holds", () => {
  const read = (retry?: Declared) => {
    const { maxAttempts, initialBackoff, maxBackoff, retryableReasons } = retryPolicyOf(tool(retry))
    return [
      maxAttempts,
      ...[initialBackoff, maxBackoff].map((one) => one && durationMs(one)),
      retryableReasons,
    ]
  }
  it("is the declared one, with defaults where it says nothing", () => {
    expect(read()).toEqual([8, 200, 5_000, []])
    expect(read({})).toEqual([8, 200, 5_000, []])
    expect(read({ maxAttempts: 1, retryableReasons: ["busy"] })).toEqual([1, 200, 5_000, ["busy"]])
    expect(read({ initialBackoff: durationFromMs(9_000) })).toEqual([8, 9_000, 9_000, []])
    const both = { initialBackoff: durationFromMs(10), maxBackoff: durationFromMs(20) }
    expect(read(both)).toEqual([8, 10, 20, []])
  })
})

describe("a definition", () => {
  const refused: readonly [string, Declared, RegExp, Effect?][] = [
    ["too many attempts", { maxAttempts: 101 }, /100 attempts/],
    ["no back-off", { initialBackoff: durationFromMs(0) }, /back-off/],
    ["a negative back-off", { maxBackoff: durationFromMs(-5) }, /back-off/],
    ["a back-off of hours", { maxBackoff: durationFromMs(3_600_000) }, /back-off/],
    ["a longest below its first", { maxBackoff: durationFromMs(100) }, /shorter/],
    ["a reason in capitals", { retryableReasons: ["Busy"] }, /lower-case/],
    ["a reason twice", { retryableReasons: ["busy", "busy"] }, /twice/],
    ["33 reasons", { retryableReasons: Array.from({ length: 33 }, (_, i) => `r${i}`) }, /32/],
    ["reasons of an unsafe tool", { retryableReasons: ["busy"] }, /unsafe/, Effect.UNSAFE],
    ["reasons of one without effect", { retryableReasons: ["a"] }, /unsafe/, Effect.UNSPECIFIED],
  ]
  it.each(refused)("is refused with %s", (_, retry, message, effect) => {
    const read = readDefinition(tool(retry, effect))
    expect(read).toMatchObject({ kind: "refused" })
    expect(read.kind === "refused" ? read.message : "").toMatch(message)
  })

  it("has its policy in its digest, and without one the digest it always had", () => {
    const digests = [undefined, {}, { maxAttempts: 3 }, { maxAttempts: 4 }].map(
      (retry) => readDefinition(tool(retry)).digest,
    )
    expect(new Set(digests).size).toBe(4)
    const { retry: _, ...without } = tool()
    expect(readDefinition(without as ToolDefinition).digest).toBe(digests[0])
  })

  it("of an unsafe tool may say how often to look for a connection", () => {
    expect(readDefinition(tool({ maxAttempts: 3 }, Effect.UNSAFE)).kind).toBe("accepted")
  })
})
