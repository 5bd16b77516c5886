import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { describe, expect, it } from "vitest"
import { changesBetween } from "./definition-change.ts"

const input = {
  type: "object",
  properties: {
    amount: { type: "number", minimum: 1, maximum: 100 },
    currency: { enum: ["EUR", "USD"] },
    note: { type: "string", maxLength: 10 },
  },
  required: ["amount"],
}

const base: JsonObject = {
  name: "pay",
  version: "1",
  title: "Pay",
  description: "Pays.",
  riskClass: "RISK_CLASS_MEDIUM",
  effect: "EFFECT_KEYED",
  inputSchema: input,
  outputSchema: {
    type: "object",
    properties: { id: { type: "string" }, state: { enum: ["paid", "due"] } },
    required: ["id"],
  },
  annotations: { readOnlyHint: false, destructiveHint: false, idempotentHint: true },
  maxUsage: { costMicros: "10" },
}

describe("changesBetween", () => {
  it("finds nothing where nothing differs but the version and the order of members", () => {
    expect(changesBetween(base, { version: "2", ...reversed(base) })).toEqual([])
  })

  it.each<[string, Patch, string]>([
    [
      "a new optional argument",
      ["inputSchema/properties/memo", {}],
      "/inputSchema/properties/memo",
    ],
    [
      "an argument that is not required any more",
      ["inputSchema/required", []],
      "/inputSchema/required",
    ],
    ["a wider bound of an argument", ["inputSchema/properties/amount/maximum", 200], ""],
    ["a bound of an argument that is gone", ["inputSchema/properties/note/maxLength"], ""],
    [
      "one more value of an argument",
      ["inputSchema/properties/currency/enum", ["EUR", "USD", "CHF"]],
      "",
    ],
    ["one more type of an argument", ["inputSchema/properties/note/type", ["string", "null"]], ""],
    ["a new member of results", ["outputSchema/properties/at", {}], ""],
    ["a member that results always have now", ["outputSchema/required", ["id", "state"]], ""],
    ["one value less in results", ["outputSchema/properties/state/enum", ["paid"]], ""],
    ["a higher risk class", ["riskClass", "RISK_CLASS_HIGH"], ""],
    ["a stronger annotation", ["annotations/readOnlyHint", true], ""],
    ["less that it uses up", ["maxUsage/costMicros", "5"], ""],
  ])("takes %s for compatible", (_, patch, path) => {
    expect(changesOf(patch)).toEqual([
      { kind: "compatible", path: path || `/${patch[0]}`, description: expect.any(String) },
    ])
  })

  it.each<[string, Patch, string]>([
    [
      "a new required argument",
      [
        "inputSchema",
        { ...input, properties: { ...input.properties, iban: {} }, required: ["amount", "iban"] },
      ],
      "/inputSchema/properties/iban",
    ],
    ["an argument that is required now", ["inputSchema/required", ["amount", "note"]], ""],
    ["an argument that is gone", ["inputSchema/properties/note"], ""],
    ["an argument of another type", ["inputSchema/properties/note/type", "number"], ""],
    ["a narrower bound", ["inputSchema/properties/amount/maximum", 50], ""],
    ["a new bound", ["inputSchema/properties/note/minLength", 1], ""],
    ["one value less of an argument", ["inputSchema/properties/currency/enum", ["EUR"]], ""],
    ["arguments that take nothing else any more", ["inputSchema/additionalProperties", false], ""],
    ["a pattern", ["inputSchema/properties/note/pattern", "^a"], ""],
    ["a keyword that it does not know", ["inputSchema/if", {}], ""],
    [
      "another text of an argument",
      ["inputSchema/properties/note/description", "Also the password."],
      "",
    ],
    ["a member that results lack", ["outputSchema/properties/state"], ""],
    ["a member that results may lack", ["outputSchema/required", []], ""],
    [
      "one more value in results",
      ["outputSchema/properties/state/enum", ["paid", "due", "lost"]],
      "",
    ],
    ["results without a schema", ["outputSchema"], ""],
    ["another description", ["description", "Pays twice."], ""],
    ["a lower risk class", ["riskClass", "RISK_CLASS_LOW"], ""],
    ["another effect", ["effect", "EFFECT_READ"], ""],
    ["a weaker annotation", ["annotations/destructiveHint", true], ""],
    ["an annotation that is gone", ["annotations/idempotentHint"], ""],
    ["more that it uses up", ["maxUsage/costMicros", "11"], ""],
    ["a use that it does not tell any more", ["maxUsage"], "/maxUsage/costMicros"],
  ])("takes %s for breaking", (_, patch, path) => {
    expect(changesOf(patch)).toEqual([
      { kind: "breaking", path: path || `/${patch[0]}`, description: expect.any(String) },
    ])
  })
})

/** Where a definition is changed, and to what; without a value the member goes. */
type Patch = readonly [path: string, value?: JsonValue]

function changesOf([path, value]: Patch) {
  const changed = structuredClone(base)
  const names = path.split("/")
  const last = names.pop() ?? ""
  let holder = changed
  for (const name of names) holder = holder[name] as JsonObject
  if (value === undefined) delete holder[last]
  else holder[last] = value
  return changesBetween(base, changed)
}

function reversed(value: JsonObject): JsonObject {
  return Object.fromEntries(Object.entries(value).toReversed())
}
