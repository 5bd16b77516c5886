import { fromJson, type JsonObject } from "@bufbuild/protobuf"
import { Ajv2020 } from "ajv/dist/2020.js"
import { afterAll, beforeAll, expect, test } from "vitest"
import { CitationSchema } from "../../gen/runwarden/retrieval/v1/citation_pb.ts"
import { CitationVerdict } from "../../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { type Harness, startRetrieval, type Tenant } from "./retrieval-harness.ts"

let harness: Harness
beforeAll(async () => {
  harness = await startRetrieval()
})
afterAll(() => harness[Symbol.asyncDispose]())

test("the tool finds passages of the caller's workspace, as its schema says", async () => {
  const [own, other] = [harness.newTenant(), harness.newTenant()]
  await own.ingest(newId(), 1, "# Otters\n\nAn otter holds hands.")
  await other.ingest(newId(), 1, "Another otter.")
  const { tools } = await own.tools.listTools({}, own.asTools)
  expect(tools.map(({ name, version }) => `${name}@${version}`)).toEqual(["document.search@1.1.0"])
  const { outcome } = await call(own, { query: "otter" })
  if (outcome.case !== "result") throw new Error("no result")
  const validate = new Ajv2020({ validateFormats: false }).compile(tools[0]?.outputSchema ?? false)
  expect(validate(outcome.value), JSON.stringify(validate.errors)).toBe(true)
  const passages = outcome.value.passages as { citation: JsonObject }[]
  expect(passages).toHaveLength(1)
  const citation = fromJson(CitationSchema, passages[0]?.citation ?? {})
  expect((await own.verify(citation)).verdict).toBe(CitationVerdict.VERIFIED)
})

test.each<JsonObject>([
  {},
  { query: 7 },
  { query: "" },
  { query: "a", limit: 0 },
  { query: "a", limit: 1.5 },
])("arguments %j are refused", async (args) => {
  const refused = call(harness.newTenant(), args).catch((error: unknown) => reasonOf(error))
  expect(await refused).toBe("TOOL_ARGUMENTS_INVALID")
})

test("an unknown tool or version is refused", async () => {
  const own = harness.newTenant()
  for (const change of [{ tool: "document.burn" }, { version: "2.0.0" }]) {
    const refused = call(own, { query: "a" }, change).catch((error: unknown) => reasonOf(error))
    expect(await refused).toBe("UNKNOWN_TOOL")
  }
})

function call(
  { tools, workspaceId, asTools }: Tenant,
  args: JsonObject,
  change: { readonly tool?: string; readonly version?: string } = {},
) {
  const named = { tool: "document.search", version: "1.1.0", ...change }
  const key = { workspaceId, idempotencyKey: newId(), runId: newId() }
  return tools.executeTool({ ...named, ...key, arguments: args }, asTools)
}
