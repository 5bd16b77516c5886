/** Names of tools: none hides a character, and none can be taken for another. */
import { create } from "@bufbuild/protobuf"
import { describe, expect, test } from "vitest"
import { ToolDefinitionSchema } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { readDefinition } from "./definition.ts"
import { planSync } from "./sync-plan.ts"

function read(name: string, version = "1") {
  const inputSchema = { type: "object" }
  return readDefinition(create(ToolDefinitionSchema, { name, version, inputSchema }))
}

function plan(known: readonly string[], offered: readonly string[]) {
  const rows = known.map((name) => ({ name, version: "1", digest: digestOf(name) }))
  const {
    inserts,
    offered: taken,
    refused,
  } = planSync(
    rows,
    offered.map((name) => read(name)),
  )
  return {
    new: inserts.map(({ name }) => name),
    offered: taken.map(({ name }) => name),
    refused: refused.map(({ name, message }) => `${name}: ${message}`),
  }
}

function digestOf(name: string): string {
  return read(name).digest
}

test.each(["order.refund", "getWeather", "read_file", "read-file", "a", "A1.b_2-c"])(
  "%s is a name",
  (name) => {
    expect(read(name).kind).toBe("accepted")
  },
)

describe("refused as a name", () => {
  test.each([
    ["nothing", ""],
    ["a blank", "order refund"],
    ["a slash, which stands between provider and name", "orders/refund"],
    ["a dot at an end", "order."],
    ["two dots", "order..refund"],
    ["a Cyrillic letter", "оrder.refund"],
    ["only Cyrillic letters", "сору"],
    ["a Greek letter", "οrder"],
    ["full-width letters", "ｏrder"],
    ["a mathematical letter", "𝐨rder"],
    ["a letter with a mark", "ordér"],
    ["a letter and a mark apart", "orde\u0301r"],
    ["a zero-width space", "order\u200b.refund"],
    ["a zero-width joiner", "order\u200d"],
    ["a soft hyphen", "or\u00adder"],
    ["a change of direction", "order\u202e"],
    ["a tag", "order\u{e0061}"],
    ["a variation selector", "order\ufe0f"],
    ["a Hangul filler", "order\u3164"],
    ["a Braille blank", "order\u2800"],
    ["a no-break space", "order\u00a0refund"],
    ["another dash", "read\u2010file"],
    ["a fraction slash", "orders\u2044refund"],
    ["a line break", "order\n"],
    ["NUL", "order\u0000"],
    ["an escape sequence", "\u001b[2Jorder"],
    ["too many characters", "a".repeat(129)],
  ])("%s", (_, name) => {
    const refused = read(name)
    expect(refused).toMatchObject({
      kind: "refused",
      message: expect.stringMatching(/The name is/),
    })
    // What is shown of it shows every character.
    expect(refused.kind === "refused" && refused.name).toMatch(/^[\x20-\x7e]*$/)
  })
})

describe("names that look alike in one answer", () => {
  test.each([
    ["case", "order.refund", "order.Refund"],
    ["one for l", "pay.all", "pay.a1l"],
    ["a capital I for l", "list", "Iist"],
    ["zero for o", "order", "0rder"],
    ["rn for m", "confirm", "confirrn"],
    ["two v for w", "withdraw", "vvithdraw"],
    ["one dash for another", "read_file", "read-file"],
  ])("by %s: a known one stays, of two new ones neither is taken", (_, good, other) => {
    expect(plan([good], [good, other])).toEqual({
      new: [],
      offered: [good],
      refused: [`${other}: The name looks like ${good}.`],
    })
    expect(plan([], [good, other])).toMatchObject({ new: [], offered: [] })
    expect(plan([], [good])).toMatchObject({ new: [good], refused: [] })
  })

  test("names that do not look alike, and versions of one, are taken", () => {
    const names = ["order.get", "order.set", "item1", "item2", "login", "log_in"]
    expect(plan([], names)).toMatchObject({ new: [...names].sort(), refused: [] })
    const twice = planSync([], [read("order.get", "1"), read("order.get", "2")])
    expect(twice.inserts).toHaveLength(2)
  })
})
