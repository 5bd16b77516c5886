import type { Tool } from "@modelcontextprotocol/client"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { readDefinition } from "../registry/definition.ts"
import { toDefinition } from "./definition.ts"

const tool: Tool = {
  name: "get-sum",
  description: "Adds.",
  inputSchema: { type: "object", properties: { a: { type: "number" } } },
}

describe("toDefinition", () => {
  it("believes nothing that a server says of its tool", () => {
    const annotations = fc.record({
      readOnlyHint: fc.boolean(),
      destructiveHint: fc.boolean(),
      idempotentHint: fc.boolean(),
    })
    fc.assert(
      fc.property(annotations, (said) => {
        const definition = toDefinition({ ...tool, annotations: said }, undefined)
        expect(definition).toMatchObject({
          riskClass: RiskClass.HIGH,
          effect: Effect.UNSAFE,
          annotations: said,
        })
        expect(readDefinition(definition).kind).toBe("accepted")
      }),
      { numRuns: 20, seed: 1 },
    )
  })

  it("gives another version to whatever differs in anything", () => {
    const settings = { riskClass: RiskClass.LOW, effect: Effect.READ }
    const versions = [
      toDefinition(tool, undefined),
      toDefinition({ ...tool, description: "Adds!" }, undefined),
      toDefinition({ ...tool, description: "Adds.\u200b" }, undefined),
      toDefinition({ ...tool, title: "Sum" }, undefined),
      toDefinition({ ...tool, annotations: { readOnlyHint: true } }, undefined),
      toDefinition({ ...tool, outputSchema: { type: "object" } }, undefined),
      toDefinition({ ...tool, inputSchema: { type: "object" } }, undefined),
      toDefinition(tool, settings),
    ].map(({ version }) => version)
    expect(new Set(versions).size).toBe(versions.length)
    expect(toDefinition({ ...tool }, settings).version).toBe(versions.at(-1))
  })

  it("shows no text that hides something", () => {
    const hiding = { ...tool, title: "S\u200bum", description: "Adds\ufe0f.\u{e0041}\n\tWell." }
    const definition = toDefinition(hiding, undefined)
    expect([definition.title, definition.description]).toEqual(["Sum", "Adds.\n\tWell."])
    expect(readDefinition(definition).kind).toBe("accepted")
  })
})
