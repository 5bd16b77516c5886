/** The runs of a load, all sorts of them. */
import type { RunShape } from "./plans.ts"
import { createRandom } from "./random.ts"

/** Runs whose classes take turns; every so-manieth has a step that needs a yes. */
export function mixedShapes(
  count: number,
  seed: number,
  every: Partial<RunShape> = {},
): RunShape[] {
  const random = createRandom(seed)
  return Array.from({ length: count }, (_, n): RunShape => {
    const effect = (["read", "keyed", "unsafe"] as const)[n % 3] ?? "read"
    return {
      effect,
      stepCount: 3,
      ...(random.next() < 0.25 ? { highStep: Math.floor(random.between(0, 3)) } : {}),
      ...(effect === "unsafe" && random.next() < 0.25 ? { isBlind: true } : {}),
      ...every,
    }
  })
}
