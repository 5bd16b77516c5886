import { expect, test } from "vitest"
import { definition } from "../../../mesh/fixtures/fake-provider.ts"
import { createReadings } from "./readings.ts"

const hidden = "\u200b"

test("what comes again is not read again, and what differs in anything is", () => {
  const readings = createReadings()
  const first = readings.of("a", [definition("x"), definition("y", { title: hidden })])
  expect(first.map(({ kind }) => kind)).toEqual(["accepted", "refused"])
  const second = readings.of("a", [definition("y", { title: hidden }), definition("x")])
  expect(second[0]).toBe(first[1])
  expect(second[1]).toBe(first[0])
  const third = readings.of("a", [definition("x", { description: "Another." }), definition("y")])
  expect(third[0]).not.toBe(first[0])
  expect(third[1]?.kind).toBe("accepted")
})

test("nothing is kept but the last answer, and of each provider its own", () => {
  const readings = createReadings()
  const [x] = readings.of("a", [definition("x")])
  expect(readings.of("b", [definition("x")])[0]).not.toBe(x)
  readings.of("a", [])
  expect(readings.of("a", [definition("x")])[0]).not.toBe(x)
})
