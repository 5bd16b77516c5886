/**
 * Every required test of the official suite, for each draft: it is judged as the suite says, or its
 * schema is refused for a reason that is known here.
 */
import { existsSync, globSync, readFileSync } from "node:fs"
import { basename, join } from "node:path"
import type { JsonValue } from "@bufbuild/protobuf"
import { describe, expect, test } from "vitest"
import { readSchema } from "./checker.ts"
import { SchemaRefusal } from "./refusal.ts"

const folder = join(process.env.RUNWARDEN_EVAL_DATA ?? "", "json-schema-suite")
const hasData = process.env.RUNWARDEN_EVAL_DATA !== undefined && existsSync(folder)
if (!hasData) console.log("skipped: the suite of JSON Schema (set RUNWARDEN_EVAL_DATA)")

interface Group {
  readonly schema: JsonValue
  readonly tests: readonly { readonly data: JsonValue; readonly valid: boolean }[]
}

/** Why schemas of the suite are refused: the deviations that docs/schemas.md lists. */
const reasons: Readonly<Record<string, RegExp>> = {
  outside: /points outside the schema|\$schema is not draft/,
  identifiers: /\$(?:id|anchor|dynamicAnchor|dynamicRef) is refused/,
  unevaluated: /unevaluatedItems is refused|both unevaluatedProperties and if/,
  prototypes: /names a property __proto__/,
}

const drafts = [
  {
    draft: "draft2020-12",
    dialect: "https://json-schema.org/draft/2020-12/schema",
    judged: 953,
    refused: { outside: 66, identifiers: 71, unevaluated: 72, prototypes: 14 },
  },
  {
    draft: "draft7",
    dialect: "http://json-schema.org/draft-07/schema#",
    judged: 786,
    refused: { outside: 39, identifiers: 22, prototypes: 14 },
  },
  {
    draft: "draft6",
    dialect: "http://json-schema.org/draft-06/schema#",
    judged: 710,
    refused: { outside: 33, identifiers: 20, prototypes: 14 },
  },
]

describe.skipIf(!hasData).each(drafts)("$draft", ({ draft, dialect, judged, refused }) => {
  test("every required test is judged as the suite says, or its schema is refused", () => {
    const seen = { judged: 0, refused: {} as Record<string, number> }
    const wrong: string[] = []
    for (const file of globSync(join(folder, draft, "*.json")).sort()) {
      for (const [index, group] of readGroups(file).entries()) {
        const judge = judgeOf(group.schema, dialect)
        if (typeof judge === "string") {
          const reason = Object.keys(reasons).find((name) => reasons[name]?.test(judge)) ?? judge
          seen.refused[reason] = (seen.refused[reason] ?? 0) + group.tests.length
          continue
        }
        for (const { data, valid } of group.tests) {
          seen.judged++
          const isValid = judge(data).length === 0
          if (isValid !== valid) wrong.push(`${basename(file)} ${index}`)
        }
      }
    }
    expect(wrong).toEqual([])
    expect(seen).toEqual({ judged, refused })
  })
})

function readGroups(file: string): readonly Group[] {
  return JSON.parse(readFileSync(file, "utf8"))
}

/** The check of a schema, or why it is refused. The suite names the draft by the folder alone. */
function judgeOf(schema: JsonValue, dialect: string): ReturnType<typeof readSchema> | string {
  const isNamed = typeof schema !== "object" || schema === null || "$schema" in schema
  try {
    return readSchema(isNamed ? schema : { $schema: dialect, ...schema }, { strict: false })
  } catch (error) {
    if (error instanceof SchemaRefusal) return error.message
    throw error
  }
}
