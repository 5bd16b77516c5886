// The bytes of a record, and that what counts of it does not depend on how it came together.
import fc from "fast-check"
import { expect, test } from "vitest"
import { createRecordWriter, readEntries } from "./record-codec.ts"
import { type Entry, findingsOf, newEntries, readTally, sumOf, writeTally } from "./run-record.ts"

const text = fc.string({ unit: "binary", maxLength: 12 })
const entry: fc.Arbitrary<Entry> = fc.record({
  eventId: fc.uuid(),
  micros: fc.oneof(fc.nat(20), fc.integer({ min: 0, max: 7_258_118_399_999_999 })),
  kind: fc.constantFrom("run", "tool_call", "moderation", "approval", "resource", "budget"),
  state: fc.oneof(text, fc.constantFrom("running", "succeeded", "failed", "outcome_unknown")),
  reason: text,
  name: text,
  about: text,
  stepIndex: fc.oneof(fc.nat(3), fc.nat(0xffff_ffff)),
  millis: fc.oneof(fc.nat(100), fc.constant(Number.MAX_SAFE_INTEGER)),
  isMarked: fc.boolean(),
  amounts: fc.option(
    fc.tuple(fc.nat(300), fc.nat(Number.MAX_SAFE_INTEGER), fc.constant(Number.MAX_SAFE_INTEGER)),
    { nil: undefined },
  ),
})

test("entries are read as they were written, whatever else the writer wrote", () => {
  const records = fc.array(fc.array(entry, { minLength: 1, maxLength: 30 }), { maxLength: 8 })
  fc.assert(
    fc.property(records, fc.nat(2_000), (written, capacity) => {
      const write = createRecordWriter(capacity)
      const bytes = written.map(write)
      expect(bytes.map(readEntries)).toEqual(written)
    }),
    { seed: 118, numRuns: 300 },
  )
})

test("bytes that are cut are refused, not misread", () => {
  const write = createRecordWriter(64)
  fc.assert(
    fc.property(fc.array(entry, { minLength: 1, maxLength: 5 }), fc.nat(), (written, at) => {
      const bytes = write(written)
      const cut = bytes.subarray(0, at % bytes.length)
      expect(() => expect(readEntries(cut)).toEqual(written)).toThrow()
    }),
    { seed: 119, numRuns: 300 },
  )
})

test("what counts is the same in any order, and with any repetition", () => {
  const runs = fc.uniqueArray(entry, { selector: ({ eventId }) => eventId, maxLength: 20 })
  fc.assert(
    fc.property(runs, fc.infiniteStream(fc.nat()), (entries, picks) => {
      const shuffled = [...entries, ...entries]
        .map((each) => ({ each, place: picks.next().value ?? 0 }))
        .sort((a, b) => a.place - b.place)
        .map(({ each }) => each)
      const held: Entry[] = []
      for (const each of shuffled) held.push(...newEntries([each], held))
      const [one, other] = [entries, held].map((all) => findingsOf({ isRun: true, entries: all }))
      if (one === undefined || other === undefined) throw new Error("two findings")
      expect(held).toHaveLength(entries.length)
      expect(other.run).toEqual(one.run)
      expect(writeTally(other)).toBe(writeTally(one))
      expect(sumOf(other.used)?.[0]).toBe(sumOf(one.used)?.[0])
      const [calls, verdicts, warnings] = readTally(writeTally(one))
      expect(Object.values({ ...warnings }).reduce((a, b) => a + b, 0)).toBe(one.warnings.length)
      expect(Object.values({ ...calls }).reduce((a, b) => a + b, 0)).toBe(one.calls.length)
      expect(Object.values({ ...verdicts }).reduce((a, b) => a + b, 0)).toBe(one.verdicts.length)
    }),
    { seed: 120, numRuns: 500 },
  )
})
