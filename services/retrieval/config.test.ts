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
})

test("every variable has its effect", () => {
  const config = readConfig({
    ...database,
    RETRIEVAL_ANALYSIS_THREADS: "3",
    RETRIEVAL_ANALYSIS_TIMEOUT_MS: "700",
    RETRIEVAL_ANALYSIS_QUEUE: "5",
    RETRIEVAL_KEPT_VERSIONS: "1",
  })
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
  ["RETRIEVAL_DATABASE_URL", "http://localhost"],
])("%s=%s is refused by its name", (name, value) => {
  expect(() => readConfig({ ...database, [name]: value })).toThrow(name)
})
