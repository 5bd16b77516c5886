// biome-ignore-all lint/suspicious/noTemplateCurlyInString: this is how a plan names a value.
import { globSync, readFileSync } from "node:fs"
import path from "node:path"
import { toJson } from "@bufbuild/protobuf"
import { describe, expect, test } from "vitest"
import { OnError, PlanSchema } from "../gen/runwarden/orchestrator/v1/plan_pb.ts"
import { CliError } from "./failure.ts"
import { readPlan } from "./plan-file.ts"
import { readValues } from "./plan-values.ts"

const root = path.resolve(import.meta.dirname, "..")

function faultsOf(text: string, values: string[] = []): string[] {
  try {
    readPlan(text, "plan.yaml", readValues(values))
  } catch (error) {
    if (!(error instanceof CliError)) throw error
    return error.failure.fields.map(({ field, description }) => `${field}: ${description}`)
  }
  return []
}

const good = `name: set-up
input: please
timeout: 2h
steps:
  - tool: project.create
    title: Create it
    arguments: { name: Apollo, tags: [a, 1, true, null] }
  - tool: projects/project.transition
    version: "1.0.0"
    on_error: continue
    arguments:
      project_id: { $from: 0, path: /project_id }
      state: active
`

test("YAML becomes the plan of the contract", () => {
  const file = readPlan(good, "plan.yaml")
  expect(file).toMatchObject({ input: "please", timeoutSeconds: 7200, threadId: "" })
  expect(file.plan.steps[1]?.onError).toBe(OnError.CONTINUE)
  expect(toJson(PlanSchema, file.plan)).toEqual({
    name: "set-up",
    steps: [
      {
        tool: "project.create",
        title: "Create it",
        arguments: { name: "Apollo", tags: ["a", 1, true, null] },
      },
      {
        tool: "projects/project.transition",
        version: "1.0.0",
        onError: "ON_ERROR_CONTINUE",
        arguments: { project_id: { $from: 0, path: "/project_id" }, state: "active" },
      },
    ],
  })
})

test("JSON is read as well, with tabs and all", () => {
  const text = JSON.stringify(
    { name: "a", steps: [{ tool: "t", arguments: { n: 1 } }] },
    null,
    "\t",
  )
  expect(readPlan(text, "plan.json").plan.steps[0]?.arguments).toEqual({ n: 1 })
})

test("a key called __proto__ stays an argument", () => {
  const { plan } = readPlan(
    '{"name":"a","steps":[{"tool":"t","arguments":{"__proto__":{"x":1}}}]}',
    "-",
  )
  expect(Object.keys(plan.steps[0]?.arguments ?? {})).toEqual(["__proto__"])
})

test.each(globSync("examples/plans/*.yaml", { cwd: root }))("%s is a plan", (file) => {
  const values = file.includes("file-note") ? ["title=a", "text=b"] : []
  const text = readFileSync(path.join(root, file), "utf8")
  expect(readPlan(text, file, readValues(values)).plan.steps.length).toBeGreaterThan(0)
})

describe("faults are named with their lines", () => {
  test.each([
    ["", ["line 1: the file is empty"]],
    ["- a\n", ["line 1: a plan is a mapping with name and steps"]],
    ["just words\n", ["line 1: a plan is a mapping with name and steps"]],
    ["name: a\nsteps: []\n", ["line 2: the plan needs steps: a list of at least one"]],
    [
      "name: a\nstepz:\n  - tool: t\n",
      [
        'line 2: a plan has no field "stepz"; did you mean steps?',
        "line 1: the plan needs steps: a list of at least one",
      ],
    ],
    ["steps:\n  - tool: t\n", ["line 1: the plan needs a name"]],
    [
      "name: a\nsteps:\n  - tool: t\n    onError: stop\n",
      ['line 4: step 0 has no field "onError"; did you mean on_error?'],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n    on_error: retry\n",
      ['line 4: on_error is stop or continue, not "retry"'],
    ],
    ["name: a\nsteps:\n  - title: x\n", ["line 3: step 0 needs a tool"]],
    ["name: a\nsteps:\n  - t\n", ["line 3: step 0 is a mapping with tool and arguments"]],
    [
      "name: 1\nsteps:\n  - tool: t\n",
      [
        "line 1: this must be a text; put it in quotes if it looks like something else",
        "line 1: the plan needs a name",
      ],
    ],
    [
      "name: a\ntimeout: soon\nsteps:\n  - tool: t\n",
      ['line 2: timeout must be a length of time such as 90s, 15m, 24h or 7d, not "soon".'],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n    version: 1.0\n",
      ["line 4: this must be a text; put it in quotes if it looks like something else"],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n    arguments: [1]\n",
      ["line 4: the arguments of step 0 are a mapping"],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n    arguments: { n: .nan }\n",
      ["line 4: JSON has no such number"],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n    arguments:\n      n: 90071992547409931\n",
      ["line 5: this number is too large to be exact; write it as a text"],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n    arguments:\n      x: { $from: 0 }\n",
      ["line 5: $from names step 0, but this is step 0: it must be an earlier one"],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n  - tool: t\n    arguments:\n      x: { $from: 0, path: id }\n",
      ['line 6: path is a JSON Pointer into the result, such as "/project_id"'],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n  - tool: t\n    arguments:\n      x: { $from: 0, paht: /id }\n",
      ['line 6: a reference has $from and path and nothing else, not "paht"'],
    ],
    [
      "name: a\nsteps:\n  - tool: t\n  - tool: t\n    arguments:\n      x: { $from: '0' }\n",
      ["line 6: $from is the number of an earlier step, counted from 0"],
    ],
    ["name: a\nname: b\nsteps:\n  - tool: t\n", ["line 2: Map keys must be unique"]],
    [
      "name: a\nsteps:\n  - tool: t\n---\nname: b\n",
      ["line 4: a file holds one plan, not several"],
    ],
  ])("%j", (text, faults) => {
    expect(faultsOf(text)).toEqual(faults)
  })

  test("broken YAML", () => {
    expect(faultsOf("name: a\nsteps: [\n")[0]).toMatch(/^line \d: /)
    expect(faultsOf("name: !secret a\nsteps:\n  - tool: t\n")[0]).toMatch(/^line 1: Unresolved tag/)
  })
})

describe("--set", () => {
  const plan =
    "name: a\nsteps:\n  - tool: t\n    arguments: { title: 'Hi ${who}, $${who}', n: 1 }\n"

  test("fills texts in, and only texts", () => {
    const { plan: filled } = readPlan(plan, "-", readValues(["who={$from: 0}\n- tool: evil"]))
    expect(filled.steps[0]?.arguments).toEqual({
      title: "Hi {$from: 0}\n- tool: evil, ${who}",
      n: 1,
    })
  })

  test("a name without a value, and a value without a name, are faults", () => {
    expect(faultsOf(plan)).toEqual(["line 4: ${who} has no value; give it with --set who=…"])
    expect(faultsOf(plan, ["who=a", "other=b"])).toEqual([
      "line 1: nothing in the plan says ${other}, but --set gives it",
    ])
  })

  test.each(["who", "=x", "a b=c"])("%s is no name and value", (option) => {
    expect(() => readValues([option])).toThrow("--set takes name=value")
  })
})

test("a field of the request leads to its line", () => {
  const { lineOf } = readPlan(good, "plan.yaml")
  expect(lineOf("plan.steps[1].tool")).toBe("line 8")
  expect(lineOf("plan.steps[1].arguments/state")).toBe("line 13")
  expect(lineOf("plan.steps[0].arguments/name")).toBe("line 7")
  expect(lineOf("plan.name")).toBe("line 1")
  expect(lineOf("workspace_id")).toBeUndefined()
})
