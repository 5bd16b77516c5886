const atOnce = 8

/** Does the same for each item, several at a time; what became of each, in their order. */
export async function eachOf<Item, Result>(
  items: readonly Item[],
  work: (item: Item) => Promise<Result>,
): Promise<readonly PromiseSettledResult<Result>[]> {
  const results: PromiseSettledResult<Result>[] = []
  const left = items.entries()
  const worker = async () => {
    for (const [index, item] of left) {
      const [result] = await Promise.allSettled([(async () => work(item))()])
      results[index] = result
    }
  }
  await Promise.all(Array.from({ length: Math.min(atOnce, items.length) }, worker))
  return results
}
