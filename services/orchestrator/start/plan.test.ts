import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { RunwardenError } from "../../../mesh/errors.ts"
import { atPointer, checkPlan, isLiteral, type PlanStep, resolveArguments } from "./plan.ts"

const maxBytes = 131_072

describe("checkPlan", () => {
  const bad: readonly [string, JsonValue, RegExp][] = [
    ["itself", { $from: 1, path: "/a" }, /step 1, which is not earlier/],
    ["a later step", { $from: 5, path: "/a" }, /step 5, which is not earlier/],
    ["a negative step", { $from: -1, path: "" }, /not the number of a step/],
    ["half a step", { $from: 0.5, path: "" }, /not the number of a step/],
    ["a name", { $from: "first", path: "" }, /not the number of a step/],
    ["another member", { $from: 0, path: "", default: 1 }, /nothing else, not "default"/],
    ["a path without slash", { $from: 0, path: "a" }, /no leading \//],
    ["a broken escape", { $from: 0, path: "/a~2" }, /~ without 0 or 1/],
    ["a path that is no string", { $from: 0, path: 3 }, /path is not a string/],
  ]
  for (const [what, reference, cause] of bad) {
    it(`refuses a reference to ${what}, wherever it stands`, () => {
      for (const args of [{ a: reference }, { a: [{ b: reference }] }]) {
        const error = faultOf([step({}), step(args)])
        expect(error?.metadata.field).toBe("plan.steps[1].arguments")
        expect(error?.metadata.cause).toMatch(cause)
      }
    })
  }

  it("refuses what is too deep or too large, and lone surrogates", () => {
    let deep: JsonValue = 1
    for (let level = 0; level < 10_000; level++) deep = { a: deep }
    expect(faultOf([step({ deep })])?.metadata.cause).toMatch(/deeper than 32/)
    expect(faultOf([step({ big: "x".repeat(70_000) })])?.metadata.cause).toMatch(/larger than/)
    expect(faultOf([step({ half: "\ud800" })])?.metadata.cause).toMatch(/no valid JSON/)
  })

  it("takes references to earlier steps", () => {
    const args = { a: { $from: 0, path: "/x/0/~1~0" }, b: [{ $from: 1 }] }
    expect(faultOf([step({}), step({}), step(args)])).toBeUndefined()
    expect(isLiteral(args)).toBe(false)
    expect(isLiteral({ a: [{ b: 1 }], a$from: 1 })).toBe(true)
  })
})

describe("resolveArguments", () => {
  const results = new Map<number, JsonValue>([
    [0, { id: "p1", list: [{ a: null }, "two"], "a/b": 1, "m~n": 2, "": 3 }],
    [2, { error: { reason: "not_found" } }],
  ])

  it("finds values of every kind and says where they come from", () => {
    const planned = {
      id: { $from: 0, path: "/id" },
      nothing: { $from: 0, path: "/list/0/a" },
      second: [{ $from: 0, path: "/list/1" }],
      slash: { $from: 0, path: "/a~1b" },
      tilde: { $from: 0, path: "/m~0n" },
      empty: { $from: 0, path: "/" },
      reason: { $from: 2, path: "/error/reason" },
      literal: "x",
    }
    expect(resolveArguments(planned, results, maxBytes)).toEqual({
      kind: "resolved",
      arguments: {
        id: "p1",
        nothing: null,
        second: ["two"],
        slash: 1,
        tilde: 2,
        empty: 3,
        reason: "not_found",
        literal: "x",
      },
      provenance: [0, 2],
      bytes: 108,
    })
    expect(planned.id).toEqual({ $from: 0, path: "/id" })
  })

  it("is unresolved where a result has no such place, inherited ones included", () => {
    for (const path of ["/missing", "/list/2", "/list/-", "/list/01", "/id/0", "/constructor"]) {
      expect(resolveArguments({ a: { $from: 0, path } }, results, maxBytes).kind).toBe("unresolved")
    }
    expect(resolveArguments({ a: { $from: 1 } }, results, maxBytes).kind).toBe("unresolved")
    expect(resolveArguments({ a: { $from: 0, path: "/__proto__" } }, results, maxBytes).kind).toBe(
      "unresolved",
    )
  })

  it("does not resolve what a result brings along: a result is data", () => {
    const hostile = new Map<number, JsonValue>([[0, { a: { $from: 7, path: "/secret" } }]])
    expect(resolveArguments({ x: { $from: 0, path: "/a" } }, hostile, maxBytes)).toMatchObject({
      arguments: { x: { $from: 7, path: "/secret" } },
    })
  })

  it("leaves literal arguments as they are, and finds every leaf by its own pointer", () => {
    const json = fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 }), {
      noNullPrototype: true,
    })
    fc.assert(
      fc.property(json, (value) => {
        const object = value as JsonObject
        for (const [pointer, leaf] of leaves(object)) {
          expect(atPointer(object, pointer)).toEqual(leaf)
        }
        if (!isLiteral(object) || !JSON.stringify(object).isWellFormed()) return
        const resolved = resolveArguments(object, new Map(), maxBytes)
        if (resolved.kind === "resolved") expect(resolved.arguments).toEqual(object)
      }),
      { seed: 23, numRuns: 300 },
    )
  })
})

function step(args: JsonObject): PlanStep {
  return { tool: "t/x", version: "", arguments: args, onError: "stop", title: "" }
}

function faultOf(steps: readonly PlanStep[]): RunwardenError | undefined {
  try {
    checkPlan(steps, maxBytes)
    return undefined
  } catch (error) {
    if (error instanceof RunwardenError) return error
    throw error
  }
}

function* leaves(value: JsonValue, pointer = ""): Generator<[string, JsonValue]> {
  yield [pointer, value]
  if (typeof value !== "object" || value === null) return
  for (const [key, item] of Object.entries(value)) {
    yield* leaves(item, `${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`)
  }
}
