import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { RunwardenError, reasonOf } from "./errors.ts"
import { countNotes, openNotes } from "./fixtures/notes-database.ts"
import { createGroup } from "./group.ts"
import { newId } from "./ids.ts"
import { until } from "./testing.ts"

const isReason = (reason: string) => (error: unknown) => reasonOf(error) === reason

/** A group that notes its runs and holds each until it is told to go on. */
function heldGroup(options: { readonly maxItems?: number; readonly maxInFlight?: number } = {}) {
  const runs: { readonly items: readonly number[]; finish(error?: Error): void }[] = []
  const group = createGroup<number, string>({
    name: "held",
    ...options,
    run(items) {
      const { promise, resolve, reject } = Promise.withResolvers<readonly string[]>()
      const finish = (error?: Error) => {
        if (error === undefined) resolve(items.map((item) => `done ${item}`))
        else reject(error)
      }
      runs.push({ items, finish })
      return promise
    },
  })
  const started = (count: number) => until(() => runs.length === count)
  const finish = (index: number, error?: Error) => runs[index]?.finish(error)
  return { group, runs, started, finish, items: () => runs.map((run) => run.items) }
}

test("what is added in one turn is one run, and everybody gets the answer of their own", async () => {
  const { group, items, started, finish } = heldGroup()
  const answers = Promise.all([1, 2, 3].map((item) => group.add(item)))
  await started(1)
  finish(0)
  expect(await answers).toEqual(["done 1", "done 2", "done 3"])
  expect(items()).toEqual([[1, 2, 3]])
})

test("while all runs are busy the next one gathers, up to its most", async () => {
  const held = heldGroup({ maxInFlight: 2, maxItems: 3 })
  const answers = [held.group.add(1)]
  await held.started(1)
  answers.push(held.group.add(2))
  await held.started(2)
  for (const item of [3, 4, 5, 6]) answers.push(held.group.add(item))
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(held.items()).toEqual([[1], [2]])
  held.finish(0)
  await held.started(3)
  held.finish(1)
  await held.started(4)
  expect(held.items()).toEqual([[1], [2], [3, 4, 5], [6]])
  held.finish(2)
  held.finish(3)
  expect(await Promise.all(answers)).toHaveLength(6)
})

describe("a run that fails", () => {
  test("is split until only the guilty item fails", async () => {
    const runs: (readonly number[])[] = []
    const group = createGroup<number, number>({
      name: "split",
      async run(items) {
        runs.push(items)
        if (items.includes(5)) throw new Error("five")
        return items.map((item) => item * 2)
      },
    })
    const results = await Promise.allSettled([1, 2, 3, 4, 5, 6, 7].map((item) => group.add(item)))
    expect(
      results.map((result) => (result.status === "fulfilled" ? result.value : "failed")),
    ).toEqual([2, 4, 6, 8, "failed", 12, 14])
    expect(runs.filter((run) => run.includes(5))).toEqual([
      [1, 2, 3, 4, 5, 6, 7],
      [4, 5, 6, 7],
      [4, 5],
      [5],
    ])
  })

  test("is not split when the database cannot be used: everybody is told so", async () => {
    const { group, runs, started, finish } = heldGroup()
    const answers = [1, 2, 3].map((item) => group.add(item))
    await started(1)
    finish(0, new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "database" }))
    for (const answer of answers) {
      await expect(answer).rejects.toSatisfy(isReason("DEPENDENCY_UNAVAILABLE"))
    }
    expect(runs).toHaveLength(1)
  })

  test("is not run again when it was done and only miscounted", async () => {
    let runs = 0
    const group = createGroup<number, number>({
      name: "short",
      async run() {
        runs++
        return [1]
      },
    })
    const results = await Promise.allSettled([group.add(1), group.add(2)])
    expect(results.every((result) => result.status === "rejected")).toBe(true)
    expect(runs).toBe(1)
  })
})

describe("who stops waiting", () => {
  test("before the run takes the item out", async () => {
    const { group, items, started, finish } = heldGroup({ maxInFlight: 1 })
    const first = group.add(1)
    await started(1)
    const gone = new AbortController()
    const second = group.add(2, gone.signal)
    const third = group.add(3)
    gone.abort()
    await expect(second).rejects.toSatisfy(isReason("CANCELLED"))
    finish(0)
    await started(2)
    finish(1)
    await Promise.all([first, third])
    expect(items()).toEqual([[1], [3]])
    await expect(group.add(4, gone.signal)).rejects.toSatisfy(isReason("CANCELLED"))
  })

  test("during the run is told at once, and the others get their answers", async () => {
    const { group, started, finish } = heldGroup()
    const gone = new AbortController()
    const [first, second] = [group.add(1, gone.signal), group.add(2)]
    await started(1)
    gone.abort()
    await expect(first).rejects.toSatisfy(isReason("CANCELLED"))
    finish(0)
    expect(await second).toBe("done 2")
  })
})

describe("disposal", () => {
  test("takes nothing more and waits for all that was added", async () => {
    const { group, started, finish } = heldGroup({ maxInFlight: 1, maxItems: 1 })
    const answers = Promise.all([group.add(1), group.add(2)])
    let isDisposed = false
    const disposing = group[Symbol.asyncDispose]().then(() => {
      isDisposed = true
    })
    await expect(group.add(3)).rejects.toSatisfy(isReason("SHUTTING_DOWN"))
    await started(1)
    finish(0)
    await started(2)
    expect(isDisposed).toBe(false)
    finish(1)
    await disposing
    expect(await answers).toEqual(["done 1", "done 2"])
  })

  test("does not wait for those who have gone", async () => {
    const { group, runs } = heldGroup()
    const gone = new AbortController()
    const leaving = group.add(1, gone.signal)
    const disposing = group[Symbol.asyncDispose]()
    gone.abort()
    await expect(leaving).rejects.toSatisfy(isReason("CANCELLED"))
    await disposing
    await group[Symbol.asyncDispose]()
    expect(runs).toHaveLength(0)
  })
})

describe("with a database", () => {
  let notes: Awaited<ReturnType<typeof openNotes>>
  beforeAll(async () => {
    notes = await openNotes()
  })
  afterAll(() => notes[Symbol.asyncDispose]())

  interface Note {
    readonly workspaceId: string
    readonly noteId: string
  }
  const insertGroup = () => {
    const text = `insert into notes (workspace_id, note_id, text)
      select *, 'grouped' from unnest($1::uuid[], $2::uuid[]) returning note_id`
    return createGroup<Note, string>({
      name: "notes",
      async run(items) {
        const workspaceIds = items.map((item) => item.workspaceId)
        const noteIds = items.map((item) => item.noteId)
        const named = [...new Set(workspaceIds)]
        const values = [workspaceIds, noteIds]
        await notes.database.batch(named, { name: "insert-grouped", text }, values)
        return noteIds
      },
    })
  }

  test("a thousand rows of many callers are all there, and one that is refused is alone", async () => {
    await using group = insertGroup()
    const workspaces = Array.from({ length: 16 }, newId)
    const items = Array.from({ length: 1_000 }, (_, index) => ({
      workspaceId: workspaces[index % 16] ?? "",
      noteId: index === 500 ? "no-uuid" : newId(),
    }))
    const results = await Promise.allSettled(items.map((item) => group.add(item)))
    const refused = results.flatMap(({ status }, index) => (status === "rejected" ? [index] : []))
    expect(refused).toEqual([500])
    const counts = await Promise.all(workspaces.map((id) => countNotes(notes.database, id)))
    expect(counts.reduce((sum, count) => sum + count)).toBe(999)
  })
})
