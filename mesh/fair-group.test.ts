import { describe, expect, it } from "vitest"
import { RunwardenError } from "./errors.ts"
import { createFairGroup } from "./fair-group.ts"

interface Item {
  readonly workspaceId: string
  readonly fault?: Error
}

/** A group that notes what each of its runs was given. */
function listen() {
  const runs: string[][] = []
  const group = createFairGroup<Item, string>({
    name: "test",
    workspaceOf: ({ workspaceId }) => workspaceId,
    async run(items) {
      runs.push(items.map(({ workspaceId }) => workspaceId))
      for (const { fault } of items) if (fault !== undefined) throw fault
      return items.map(({ workspaceId }) => workspaceId)
    },
  })
  return { runs, group }
}

const add = (group: ReturnType<typeof listen>["group"], items: readonly Item[]) =>
  Promise.allSettled(items.map((item) => group.add(item)))

const good = ["a", "b", "c", "d"].map((workspaceId) => ({ workspaceId }))

describe("a workspace whose item has failed", () => {
  it("is kept apart from then on, so that its next failure splits nobody's run", async () => {
    const { runs, group } = listen()
    const bad = { workspaceId: "bad", fault: new Error("no room") }
    const first = await add(group, [...good, bad])
    expect(first.map(({ status }) => status).filter((it) => it === "rejected")).toHaveLength(1)
    expect(runs.length).toBeGreaterThan(2)
    runs.length = 0
    await add(group, [...good, bad])
    expect(runs.toSorted((one, other) => one.length - other.length)).toEqual([
      ["bad"],
      ["a", "b", "c", "d"],
    ])
  })

  it("still gets what it asks for", async () => {
    const { group } = listen()
    await add(group, [{ workspaceId: "bad", fault: new Error("no room") }])
    expect(await group.add({ workspaceId: "bad" })).toBe("bad")
  })

  it.each(["DEPENDENCY_UNAVAILABLE", "CANCELLED"] as const)(
    "is not blamed for %s",
    async (reason) => {
      const { runs, group } = listen()
      const fault = new RunwardenError(reason, {})
      await add(group, [{ workspaceId: "bad", fault }])
      runs.length = 0
      await add(group, [...good, { workspaceId: "bad" }])
      expect(runs).toEqual([["a", "b", "c", "d", "bad"]])
    },
  )
})

it("waits for all that was added when it is disposed of", async () => {
  const { group } = listen()
  await add(group, [{ workspaceId: "bad", fault: new Error("no room") }])
  const added = add(group, [...good, { workspaceId: "bad" }])
  await group[Symbol.asyncDispose]()
  expect((await added).every(({ status }) => status === "fulfilled")).toBe(true)
})
