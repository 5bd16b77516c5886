import { expect, test } from "vitest"
import { readConfig } from "./config.ts"

const database = {
  RETRIEVAL_DATABASE_URL: "postgres://app@localhost/retrieval",
  RETRIEVAL_WORKER_DATABASE_URL: "postgres://worker@localhost/retrieval",
}

test("what is not said has a default", () => {
  expect(readConfig(database)).toMatchObject({
    analyser: { threads: 2, timeoutMs: 15_000, maxWaiting: 64 },
    keptVersions: 20,
  })
  expect(readConfig(database).embeddings).toBeUndefined()
})

test("every variable has its effect", () => {
  const config = readConfig({
    ...database,
    RETRIEVAL_ANALYSIS_THREADS: "3",
    RETRIEVAL_ANALYSIS_TIMEOUT_MS: "700",
    RETRIEVAL_ANALYSIS_QUEUE: "5",
    RETRIEVAL_KEPT_VERSIONS: "1",
    RETRIEVAL_EMBEDDINGS_URL: "https://api.example.com/v1",
    RETRIEVAL_EMBEDDINGS_MODEL: "small",
    RETRIEVAL_EMBEDDINGS_KEY: "key",
    RETRIEVAL_EMBEDDINGS_DIMENSIONS: "768",
    RETRIEVAL_EMBEDDINGS_TIMEOUT_MS: "900",
  })
  const url = "https://api.example.com/v1"
  const sizes = { dimensions: 768, timeoutMs: 900 }
  expect(config.embeddings).toEqual({ url, model: "small", key: "key", ...sizes })
  expect(config.analyser).toEqual({ threads: 3, timeoutMs: 700, maxWaiting: 5 })
  expect(config.keptVersions).toBe(1)
  expect(config.database.appUrl).toBe(database.RETRIEVAL_DATABASE_URL)
})

test.each([
  ["RETRIEVAL_ANALYSIS_THREADS", "0"],
  ["RETRIEVAL_ANALYSIS_THREADS", "1.5"],
  ["RETRIEVAL_ANALYSIS_TIMEOUT_MS", "-1"],
  ["RETRIEVAL_ANALYSIS_QUEUE", "many"],
  ["RETRIEVAL_KEPT_VERSIONS", "0"],
  ["RETRIEVAL_EMBEDDINGS_URL", "ftp://example.com"],
  ["RETRIEVAL_EMBEDDINGS_DIMENSIONS", "1000"],
  ["RETRIEVAL_DATABASE_URL", "http://localhost"],
])("%s=%s is refused by its name", (name, value) => {
  expect(() => readConfig({ ...database, [name]: value })).toThrow(name)
})

test("an endpoint for embeddings needs its model", () => {
  const url = { RETRIEVAL_EMBEDDINGS_URL: "https://api.example.com/v1" }
  expect(() => readConfig({ ...database, ...url })).toThrow("RETRIEVAL_EMBEDDINGS_MODEL")
})
