import { create } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import { expect, it } from "vitest"
import { ToolUsageSchema } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { definition } from "../../../mesh/fixtures/fake-provider.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { someone, startTools } from "../tools-harness.ts"
import { readDefinition } from "./definition.ts"

const usage = (inputTokens: bigint, outputTokens = 0n, costMicros = 0n) =>
  create(ToolUsageSchema, { inputTokens, outputTokens, costMicros })

it.each([
  ["no time at all", { defaultTimeout: durationFromMs(0) }, /default timeout/],
  ["a negative time", { defaultTimeout: durationFromMs(-1) }, /default timeout/],
  ["more than a day", { defaultTimeout: durationFromMs(86_400_001) }, /default timeout/],
  ["more tokens than can be counted", { maxUsage: usage(0n, 10n ** 12n + 1n) }, /uses up/],
  ["more cost than can be counted", { maxUsage: usage(0n, 0n, 2n ** 63n) }, /uses up/],
])("a definition that declares %s is refused", (_, declared, message) => {
  const read = readDefinition(definition("look", declared))
  expect(read).toMatchObject({ kind: "refused" })
  expect(read.kind === "refused" ? read.message : "").toMatch(message)
})

it("has its time and its usage in its digest, and without them the digest it always had", () => {
  const digests = [
    {},
    { defaultTimeout: durationFromMs(1_000) },
    { defaultTimeout: durationFromMs(1_001) },
    { maxUsage: usage(0n) },
    { maxUsage: usage(10n) },
    { maxUsage: usage(0n, 10n) },
  ].map((declared) => readDefinition(definition("look", declared)).digest)
  expect(new Set(digests).size).toBe(6)
  expect(digests[0]).toBe(readDefinition(definition("look")).digest)
})

it("pins a plan to them", async () => {
  const declared = { defaultTimeout: durationFromMs(30_000), maxUsage: usage(100n, 20n, 3n) }
  await using tools = await startTools((provider) => {
    provider.tools = [definition("look"), definition("ask", declared)]
  })
  const subject = someone()
  const { workspaceId } = subject
  const steps = [{ tool: "projects/look" }, { tool: "projects/ask" }]
  const resolved = await tools.execution.resolvePlan({ workspaceId, steps }, actingAs(subject))
  expect(resolved.tools[0]).not.toHaveProperty("maxUsage")
  expect(resolved.tools[1]).toMatchObject(declared)
})
