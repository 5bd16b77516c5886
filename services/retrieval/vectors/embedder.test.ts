import { afterAll, beforeAll, beforeEach, expect, test } from "vitest"
import { reasonOf } from "../../../mesh/errors.ts"
import { createEmbedder } from "./embedder.ts"
import {
  type EndpointDouble,
  type Fault,
  startEndpoint,
  testDimensions,
  vectorOf,
} from "./endpoint-double.ts"

let endpoint: EndpointDouble
beforeAll(async () => {
  endpoint = await startEndpoint()
})
beforeEach(() => {
  endpoint.fault = undefined
  endpoint.requests.length = 0
})
afterAll(() => endpoint[Symbol.asyncDispose]())

function start(timeoutMs = 10_000) {
  const { url } = endpoint
  return createEmbedder({ url, model: "m", dimensions: testDimensions, key: "secret", timeoutMs })
}

test("texts are embedded in batches, in their order, with the key", async () => {
  await using embedder = start()
  const texts = Array.from({ length: 130 }, (_, index) => `text about number${index} cars`)
  expect(await embedder.embed(texts)).toEqual(texts.map(vectorOf))
  expect(endpoint.requests.map(({ input }) => input.length)).toEqual([64, 64, 2])
  expect(endpoint.requests[0]?.authorization).toBe("Bearer secret")
  endpoint.fault = "shuffled"
  expect(await embedder.embed(["one", "two"])).toEqual([vectorOf("one"), vectorOf("two")])
})

test.each<Fault>(["status", "garbage", "short", "missing", "flood"])(
  "an endpoint that answers with %s is unavailable",
  async (fault) => {
    await using embedder = start()
    endpoint.fault = fault
    expect(reasonOf(await failureOf(embedder.embed(["a", "b"])))).toBe("DEPENDENCY_UNAVAILABLE")
  },
)

test("an endpoint that says nothing is given up in time, and a caller who leaves at once", async () => {
  await using impatient = start(100)
  endpoint.fault = "silent"
  expect(reasonOf(await failureOf(impatient.embed(["a"])))).toBe("DEPENDENCY_UNAVAILABLE")
  await using patient = start(600_000)
  const leaving = new AbortController()
  const call = failureOf(patient.embed(["a"], leaving.signal))
  leaving.abort(new Error("gone"))
  expect(await call).toMatchObject({ message: "gone" })
})

test("after five failures nothing is sent for a while", async () => {
  await using embedder = start()
  endpoint.fault = "status"
  for (let i = 0; i < 5; i++) await failureOf(embedder.embed(["a"]))
  expect(endpoint.requests).toHaveLength(5)
  endpoint.fault = undefined
  expect(reasonOf(await failureOf(embedder.embed(["a"])))).toBe("DEPENDENCY_UNAVAILABLE")
  expect(endpoint.requests).toHaveLength(5)
})

function failureOf(call: Promise<unknown>): Promise<unknown> {
  return call.then(
    () => undefined,
    (error: unknown) => error,
  )
}
