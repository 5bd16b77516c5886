import { expect, test } from "vitest"
import { eachOf } from "./each-of.ts"

test("does a few at a time, and answers each in its order, whatever becomes of the others", async () => {
  const items = Array.from({ length: 40 }, (_, index) => index)
  let running = 0
  let most = 0
  const results = await eachOf(items, async (item) => {
    running += 1
    most = Math.max(most, running)
    await new Promise((resolve) => setTimeout(resolve, item % 3))
    running -= 1
    if (item % 10 === 7) throw new Error(`no ${item}`)
    return item * 2
  })
  expect(most).toBe(8)
  expect(results).toHaveLength(40)
  for (const [index, result] of results.entries()) {
    if (index % 10 === 7) expect(result).toMatchObject({ reason: new Error(`no ${index}`) })
    else expect(result).toMatchObject({ value: index * 2 })
  }
  expect(await eachOf([], () => Promise.reject(new Error("never")))).toEqual([])
})
