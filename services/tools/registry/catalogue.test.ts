/** What is read of the tools that names mean, and how often. */
import { join } from "node:path"
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest"
import { type Database, openDatabase } from "../../../mesh/database.ts"
import { testDatabase, testRuntime } from "../../../mesh/testing.ts"
import { type Catalogue, createCatalogue } from "./catalogue.ts"
import { insertProviders, insertTool, markOffered, type NewTool } from "./tool-store.ts"

const stack = new AsyncDisposableStack()
const tool: NewTool = {
  name: "look",
  version: "1.0.0",
  digest: "sha256:look",
  definition: { name: "look", version: "1.0.0", inputSchema: { type: "object" } },
  risk_class: "low",
  effect: "read",
}
let database: Database
let catalogue: Catalogue

beforeAll(async () => {
  const config = stack.use(await testDatabase("tools"))
  const migrations = join(import.meta.dirname, "../migrations")
  database = stack.use(openDatabase(config, { runtime: testRuntime("tools"), migrations }))
  await database.shared(async (tx) => {
    await insertProviders(tx, ["projects"])
    await insertTool(tx, "projects", tool, { isTrusted: true })
    await markOffered(tx, "projects", [{ name: "look", version: "1.0.0" }], { activatesNew: true })
  })
})

afterAll(() => stack.disposeAsync())
beforeEach(() => {
  vi.restoreAllMocks()
  catalogue = createCatalogue(database, ["projects"])
})

describe("a name", () => {
  it("is read once for all who ask at the same moment", async () => {
    const reads = vi.spyOn(database, "shared")
    const found = await Promise.all(Array.from({ length: 20 }, () => catalogue.find("look", "")))
    expect(reads).toHaveBeenCalledTimes(1)
    expect(new Set(found).size).toBe(1)
    expect(found[0]?.row.name).toBe("look")
  })

  it("is read anew by who asks after a refresh has ended", async () => {
    const reads = vi.spyOn(database, "shared")
    const before = catalogue.find("look", "")
    catalogue.forgetNames()
    await Promise.all([before, catalogue.find("look", "")])
    expect(reads).toHaveBeenCalledTimes(2)
    expect(catalogue.known("look", "")?.row.name).toBe("look")
  })

  it("is asked for again when the reading failed", async () => {
    vi.spyOn(database, "shared").mockRejectedValueOnce(new Error("away"))
    await expect(catalogue.find("look", "")).rejects.toThrow("away")
    expect((await catalogue.find("look", ""))?.row.name).toBe("look")
  })
})
