import fc from "fast-check"
import { expect, test } from "vitest"
import { type DocumentState, decideDelete, decideIngest, mayIndex } from "./document.ts"

interface Call {
  readonly kind: "ingest" | "delete"
  readonly version: number
}

const call = fc.record<Call>({
  kind: fc.constantFrom("ingest", "delete"),
  version: fc.integer({ min: 1, max: 6 }),
})

test("the same calls in any order, repeated or not, end in the same state", () => {
  const calls = fc.array(call, { minLength: 1, maxLength: 10 })
  const orders = calls.chain((some) =>
    fc.tuple(
      fc.constant(some),
      fc.shuffledSubarray([...some, ...some], { minLength: some.length * 2 }),
    ),
  )
  fc.assert(
    fc.property(orders, ([some, shuffled]) => {
      expect(visible(shuffled.reduce(apply, empty))).toEqual(visible(some.reduce(apply, empty)))
    }),
    { seed: 7, numRuns: 1_000 },
  )
})

test("what may no longer be indexed is never indexed later", () => {
  fc.assert(
    fc.property(
      fc.array(call),
      fc.array(call),
      fc.integer({ min: 1, max: 6 }),
      (before, after, version) => {
        const early = before.reduce(apply, empty)
        fc.pre(!mayIndex(early, version))
        const late = after.reduce(apply, early)
        expect(decideIngest(late, { version, sourceSha256: `${version}` })).not.toBe("index")
      },
    ),
    { seed: 8, numRuns: 1_000 },
  )
})

test("one version with two contents is a conflict", () => {
  const stored = { version: 2, deletedVersion: 0, sourceSha256: "a" }
  expect(decideIngest(stored, { version: 2, sourceSha256: "b" })).toBe("conflict")
})

const empty: DocumentState = { version: 0, deletedVersion: 0, sourceSha256: "" }

function apply(state: DocumentState, { kind, version }: Call): DocumentState {
  if (kind === "delete") {
    const deletedVersion = Math.max(state.deletedVersion, version)
    if (decideDelete(state, version) === "stale") return { ...state, deletedVersion }
    return { version: 0, deletedVersion, sourceSha256: "" }
  }
  const sourceSha256 = `${version}`
  const decision = decideIngest(state, { version, sourceSha256 })
  return decision === "index" ? { ...state, version, sourceSha256 } : state
}

/** What callers can see: which version is found, if any, and which are not to be verified. */
function visible({ version, deletedVersion }: DocumentState): readonly number[] {
  return [version, deletedVersion]
}
