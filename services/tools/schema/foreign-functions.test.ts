/**
 * Functions and right calls of the Berkeley Function Calling Leaderboard: every function is taken,
 * every call is accepted but those that break their own schema, and what is done to a call so that it
 * breaks its schema is seen.
 */
import { existsSync, globSync, readFileSync } from "node:fs"
import { basename, join } from "node:path"
import { create, type JsonObject, type JsonValue } from "@bufbuild/protobuf"
import { describe, expect, test } from "vitest"
import { ToolDefinitionSchema } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { readDefinition } from "../registry/definition.ts"
import { compileSchema, type SchemaCheck } from "./checker.ts"

const folder = join(process.env.RUNWARDEN_EVAL_DATA ?? "", "tools-bfcl")
const hasData = process.env.RUNWARDEN_EVAL_DATA !== undefined && existsSync(folder)
if (!hasData) console.log("skipped: functions of BFCL (set RUNWARDEN_EVAL_DATA)")

/** Calls that break their own schema, and where: the answers say one thing and the schemas another. */
const broken: readonly string[] = [
  // A null for an argument that is left out.
  "parallel_152 math.power/mod: must be number",
  "parallel_152 math.power/mod: must be number",
  // An expression of Python for a list.
  "parallel_multiple_21 linear_regression_fit/x: must be array",
  // Texts in a list of integers.
  "parallel_multiple_94 sort_list/elements/0: must be integer",
  // A boolean for a text.
  "simple_python_307 game_result.get_winner/venue: must be string",
]

const oneOf = "must be equal to one of the allowed values"
const brokenAlternatives: readonly string[] = [
  // Words that the list of the schema does not have: another case, or another word.
  `multiple_76 sculpture.create_custom/material: ${oneOf}`,
  // Dates that are not written as in ISO 8601.
  "parallel_multiple_63 weather.get_by_coordinates_date/date: must match format ",
  "parallel_multiple_63 weather.get_by_city_date/date: must match format ",
  `parallel_multiple_143 find_flute/specs/0: ${oneOf}`,
  `parallel_multiple_173 ecology_data.precipitation_stats/time_frame: ${oneOf}`,
  `parallel_multiple_194 building.get_dimensions/unit: ${oneOf}`,
  // A list of lists for a list of texts.
  "simple_python_149 get_stock_price/company_names/0: must be string",
  `simple_python_358 recipe_search/diet/0: ${oneOf}`,
]

interface Row {
  readonly id: string
  readonly function: readonly {
    readonly name: string
    readonly description: string
    readonly parameters: JsonObject
  }[]
}

interface Tool {
  readonly schema: JsonObject
  readonly changes: readonly string[]
  readonly check: SchemaCheck
}

interface Call {
  readonly id: string
  readonly name: string
  readonly tool: Tool
  readonly args: JsonObject
  readonly options: JsonObject
}

describe.skipIf(!hasData)("functions of BFCL", () => {
  const { tools, calls } = hasData ? readAll() : { tools: [], calls: [] }

  test("every function is taken, and what was changed is told", () => {
    expect(tools).toHaveLength(1_917)
    // Each of them names its objects "dict".
    expect(tools.filter(({ changes }) => changes.length === 0)).toEqual([])
    const words = new Set(
      tools.flatMap(({ changes }) => changes.map((change) => /: (".*?"|\S+)/.exec(change)?.[1])),
    )
    expect([...words].sort()).toEqual(
      [
        ...['"any"', '"dict"', '"float"', '"tuple"'],
        ...['"True"', '"true"', '"yes"', "true", '["rating"]', '["summary_type"]', '["weight"]'],
        "[]",
      ].sort(),
    )
  })

  test("every right call is accepted, but those that break their own schema", () => {
    expect(calls).toHaveLength(1_747)
    const refused = calls.flatMap(({ id, name, tool, args }) => {
      const [fault] = tool.check(args)
      return fault === undefined ? [] : [`${id} ${name}${fault.pointer}: ${fault.description}`]
    })
    expect(refused).toEqual(broken)
  })

  test("so is every other value that the answers allow", () => {
    const refused = calls.flatMap(({ id, name, tool, args, options }) =>
      alternatives(args, options).flatMap((other) => {
        const [fault] = tool.check(other)
        return fault === undefined
          ? []
          : [`${id} ${name}${fault.pointer}: ${fault.description.split(/[":]/)[0]}`]
      }),
    )
    const others = refused.filter((one) => !broken.includes(one))
    expect([...new Set(others)]).toEqual(brokenAlternatives)
  })

  test("a call without a required argument is refused", () => {
    let tried = 0
    for (const { tool, args } of calls) {
      for (const name of required(tool.schema)) {
        if (!Object.hasOwn(args, name)) continue
        tried++
        const { [name]: _, ...rest } = args
        expect(tool.check(rest).length).toBeGreaterThan(0)
      }
    }
    expect(tried).toBeGreaterThan(3_000)
  })

  test("a call with an argument of another type is refused", () => {
    let tried = 0
    for (const { tool, args } of calls) {
      for (const name of Object.keys(args)) {
        const type = typeOf(tool.schema, name)
        if (type === undefined) continue
        tried++
        expect(tool.check({ ...args, [name]: anotherThan(type) }).length).toBeGreaterThan(0)
      }
    }
    expect(tried).toBeGreaterThan(3_500)
  })

  test("a call with one more argument is refused where the schema is closed", () => {
    for (const { tool, args } of calls.filter((_, index) => index % 5 === 0)) {
      const closed = compileSchema({ ...tool.schema, additionalProperties: false })
      const told = closed({ ...args, one_more: 1 }).map(({ description }) => description)
      expect(told).toContain('must NOT have additional properties: "one_more"')
    }
  })
})

function readAll(): { readonly tools: readonly Tool[]; readonly calls: readonly Call[] } {
  const tools: Tool[] = []
  const calls: Call[] = []
  for (const file of globSync(join(folder, "*.jsonl")).sort()) {
    const answers = readAnswers(join(folder, "possible_answer", basename(file)))
    for (const row of readLines(file) as readonly Row[]) {
      const named = new Map(row.function.map((one) => [one.name, readTool(one)] as const))
      tools.push(...named.values())
      for (const answer of answers.get(row.id) ?? []) {
        for (const [name, options] of Object.entries(answer)) {
          const tool = named.get(name)
          if (tool === undefined) throw new Error(`${row.id} has no function ${name}`)
          calls.push({ id: row.id, name, tool, args: chosen(options), options })
        }
      }
    }
  }
  return { tools, calls }
}

function readTool({ name, description, parameters }: Row["function"][number]): Tool {
  const sent = create(ToolDefinitionSchema, {
    ...{ name, version: "1", description, inputSchema: parameters },
  })
  const read = readDefinition(sent)
  if (read.kind === "refused") throw new Error(`${name}: ${read.message}`)
  const { inputSchema = {}, schemaChanges } = read.definition
  return { schema: inputSchema, changes: schemaChanges, check: compileSchema(inputSchema) }
}

function readAnswers(file: string): ReadonlyMap<string, readonly Record<string, JsonObject>[]> {
  if (!existsSync(file)) return new Map()
  const lines = readLines(file) as readonly {
    readonly id: string
    readonly ground_truth: readonly Record<string, JsonObject>[]
  }[]
  return new Map(lines.map(({ id, ground_truth }) => [id, ground_truth]))
}

function readLines(file: string): readonly unknown[] {
  return readFileSync(file, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
}

/** The first of the answers for each argument; an empty text says that it may be left out. */
function chosen(options: JsonObject): JsonObject {
  return Object.fromEntries(
    Object.entries(options).flatMap(([name, values]): [string, JsonValue][] => {
      if (!Array.isArray(values)) return [[name, values]]
      const value = values.find((one) => one !== "")
      return value === undefined ? [] : [[name, plain(value)]]
    }),
  )
}

/** The call with each other value of one argument. */
function alternatives(args: JsonObject, options: JsonObject): readonly JsonObject[] {
  return Object.entries(options).flatMap(([name, values]) =>
    Array.isArray(values)
      ? values.filter((one) => one !== "").map((one) => ({ ...args, [name]: plain(one) }))
      : [],
  )
}

function plain(value: JsonValue): JsonValue {
  if (Array.isArray(value)) return value.map((one) => (isObject(one) ? chosen(one) : one))
  return isObject(value) ? chosen(value) : value
}

function required({ required: names }: JsonObject): readonly string[] {
  return Array.isArray(names) ? names.filter((name) => typeof name === "string") : []
}

function typeOf({ properties }: JsonObject, name: string): string | undefined {
  const member = isObject(properties) ? properties[name] : undefined
  return isObject(member) && typeof member.type === "string" ? member.type : undefined
}

function anotherThan(type: string): JsonValue {
  return type === "string" ? 7 : "seven"
}

function isObject(value: JsonValue | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value)
}
