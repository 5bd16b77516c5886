import { create, type JsonValue, toBinary } from "@bufbuild/protobuf"
import { Code } from "@connectrpc/connect"
import { describe, expect, test } from "vitest"
import { SearchResponseSchema } from "../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { ExecuteToolResponseSchema } from "../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { maxMessagesFromStrangers, readAnswer } from "./answer-reader.ts"

/** A result with a member, and what it holds. Four messages are around the value: two are of the map. */
function bytesOf(value: JsonValue): Uint8Array {
  const response = create(ExecuteToolResponseSchema, {
    outcome: { case: "result", value: { value } },
  })
  return toBinary(ExecuteToolResponseSchema, response)
}

const read = (value: JsonValue) => readAnswer(ExecuteToolResponseSchema, bytesOf(value))
const tooMany = expect.objectContaining({ code: Code.ResourceExhausted })

/** The result, the entry of its map, that entry's value, and the list in it. */
const around = 4

describe("an answer of a stranger", () => {
  test("is read with as many values as are taken, and not with one more", () => {
    const most = maxMessagesFromStrangers - around
    expect(read(Array(most).fill("x")).outcome.value).toMatchObject({ value: { length: most } })
    expect(() => read(Array(most + 1).fill("x"))).toThrow(tooMany)
  })

  test("has the members of its objects counted twice: each is an entry with a value", () => {
    const membersOf = (count: number) =>
      Object.fromEntries(Array.from({ length: count }, (_, n) => [`k${n}`, n]))
    const most = (maxMessagesFromStrangers - around) / 2
    expect(read(membersOf(most)).outcome.case).toBe("result")
    expect(() => read(membersOf(most + 1))).toThrow(tooMany)
  })

  test("has what lies deep within it counted", () => {
    const deep: JsonValue = { a: [[{ b: Array(maxMessagesFromStrangers).fill(null) }]] }
    expect(() => read(deep)).toThrow(tooMany)
  })

  test("may be one long text", () => {
    expect(read("x".repeat(4_000_000)).outcome.case).toBe("result")
  })

  test("that is nested too deeply is refused by the reader itself", () => {
    let deep: JsonValue = "x".repeat(200_000)
    for (let level = 0; level < 60; level++) deep = [deep]
    expect(() => read(deep)).toThrow(/recursion/)
  })
})

test("an answer of a service of the mesh may hold more", () => {
  const passages = Array.from({ length: maxMessagesFromStrangers + 1 }, () => ({}))
  const bytes = toBinary(SearchResponseSchema, create(SearchResponseSchema, { passages }))
  expect(readAnswer(SearchResponseSchema, bytes).passages.length).toBe(passages.length)
})
