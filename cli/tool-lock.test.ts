import { describe, expect, it } from "vitest"
import { compareLock, type LockedTool, readLock, writeLock } from "./tool-lock.ts"

const tools = ["a/one", "b/two"].map((name, index) => tool(name, String(index)))

describe("a lock file", () => {
  it("reads as it was written, sorted by name and a line for each tool", () => {
    const text = writeLock(tools.toReversed())
    expect(readLock(text)).toEqual(tools)
    expect(text.split("\n").filter((line) => line.includes("digest"))).toHaveLength(tools.length)
    expect(writeLock([])).toBe('{\n  "lockVersion": 1,\n  "tools": {\n\n  }\n}\n')
  })

  it.each([
    ["{}", /lockVersion/],
    ['{"lockVersion":2,"tools":{}}', /lockVersion/],
    [
      '{"lockVersion":1,"tools":{"a":{"version":"1","digest":"x","riskClass":"","effect":""}}}',
      /tools\.a\.digest/,
    ],
    ["no json", /JSON/],
  ])("is refused where it says %s", (text, problem) => {
    expect(() => readLock(text)).toThrow(problem)
  })
})

describe("compareLock", () => {
  it("finds what is changed, missing and new, and nothing else", () => {
    const [one, two] = tools
    const changed = tool("b/two", "9")
    const added = tool("c/three", "3")
    expect(compareLock(tools, tools)).toEqual([])
    expect(compareLock(tools, [changed, added])).toEqual([
      { name: "a/one", kind: "missing", locked: one },
      { name: "b/two", kind: "changed", locked: two, found: changed },
      { name: "c/three", kind: "not_locked", found: added },
    ])
  })
})

function tool(name: string, digit: string): LockedTool {
  return { name, version: digit, digest: digit.repeat(64), riskClass: "low", effect: "read" }
}
