/** ResolvePlan: every step in one call, and errors that say which step. */
import { ConnectError } from "@connectrpc/connect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { BadRequestSchema } from "../../../gen/google/rpc/error_details_pb.ts"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { metadataOf, reasonOf } from "../../../mesh/errors.ts"
import { definition } from "../../../mesh/fixtures/fake-provider.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { until } from "../../../mesh/testing.ts"
import { type Started, someone, standardTools, startTools } from "../tools-harness.ts"

let tools: Started
const subject = someone()
const { workspaceId } = subject

beforeAll(async () => {
  tools = await startTools((provider, second) => {
    provider.tools = [...standardTools, definition("both")]
    second.tools = [definition("both")]
  })
  await until(async () => {
    const { providers } = await tools.providers.listProviders({ workspaceId }, actingAs(subject))
    return providers.length === 2 && providers.every(({ refreshTime }) => refreshTime !== undefined)
  })
})
afterAll(() => tools[Symbol.asyncDispose]())

interface Step {
  readonly tool: string
  readonly version?: string
  readonly arguments?: { readonly [name: string]: string | number }
}

const resolve = (steps: readonly Step[]) =>
  tools.execution.resolvePlan(
    { workspaceId, steps: steps.map((step) => ({ ...step })) },
    actingAs(subject),
  )

describe("a plan", () => {
  it("is pinned step by step, short and full names alike", async () => {
    const resolved = await resolve([
      { tool: "projects/fire", arguments: { text: "x" } },
      { tool: "look" },
      { tool: "look", version: "1.0.0" },
    ])
    const { tool } = await tools.execution.resolveTool(
      { workspaceId, name: "fire" },
      actingAs(subject),
    )
    expect(resolved.tools.map(({ fullName }) => fullName)).toEqual([
      "projects/fire",
      "projects/look",
      "projects/look",
    ])
    expect(resolved.tools[0]).toMatchObject({
      version: "1.0.0",
      definitionDigest: tool?.definitionDigest,
      riskClass: RiskClass.HIGH,
      effect: Effect.UNSAFE,
      retry: tool?.retry,
    })
    expect(tool?.retry?.maxAttempts).toBe(8)
  })

  const refused: readonly [string, readonly Step[], string, string][] = [
    [
      "the first unknown name",
      [{ tool: "look" }, { tool: "a" }, { tool: "b" }],
      "UNKNOWN_TOOL",
      "steps[1].tool",
    ],
    ["a version nobody offers", [{ tool: "look", version: "9" }], "UNKNOWN_TOOL", "steps[0].tool"],
    ["an ambiguous name", [{ tool: "look" }, { tool: "both" }], "AMBIGUOUS_TOOL", "steps[1].tool"],
    [
      "a name before arguments",
      [{ tool: "look", arguments: {} }, { tool: "a" }],
      "UNKNOWN_TOOL",
      "steps[1].tool",
    ],
  ]
  it.each(refused)("is refused for %s", async (_, steps, reason, field) => {
    const error = await resolve(steps).catch((thrown: unknown) => thrown)
    expect(reasonOf(error)).toBe(reason)
    expect(metadataOf(error).field).toBe(field)
  })

  it("is refused with every place of every step where arguments do not fit", async () => {
    const error = await resolve([
      { tool: "look", arguments: { text: "fits" } },
      { tool: "look", arguments: { text: 5 } },
      { tool: "create" },
      { tool: "create", arguments: { text: "x", count: "many" } },
    ]).catch((thrown: unknown) => thrown)
    expect(reasonOf(error)).toBe("TOOL_ARGUMENTS_INVALID")
    expect(metadataOf(error)).toMatchObject({
      tool: "projects/look",
      field: "steps[1].arguments/text",
    })
    const [detail] = error instanceof ConnectError ? error.findDetails(BadRequestSchema) : []
    expect(detail?.fieldViolations.map(({ field }) => field)).toEqual([
      "steps[1].arguments/text",
      "steps[3].arguments/count",
    ])
  })

  it("sees a new version within moments, although names are remembered", async () => {
    const before = (await resolve([{ tool: "create" }])).tools[0]
    tools.provider.tools = [...standardTools, definition("create", { version: "1.1.0" })]
    const after = await until(async () => {
      const [tool] = (await resolve([{ tool: "create" }])).tools
      return tool?.version === "1.1.0" ? tool : undefined
    })
    expect(after.definitionDigest).not.toBe(before?.definitionDigest)
  })
})
