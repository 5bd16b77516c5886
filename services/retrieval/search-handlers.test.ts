import { createHash } from "node:crypto"
import { afterAll, beforeAll, expect, test } from "vitest"
import { CitationVerdict, SearchMode } from "../../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { type Harness, startRetrieval } from "./retrieval-harness.ts"

let harness: Harness
beforeAll(async () => {
  harness = await startRetrieval()
})
afterAll(() => harness[Symbol.asyncDispose]())

const handbook = `# Server

## Start

Call \`_PG_init\` first. The directory is $libdir and nothing else.

## Views

The view pg_stat_activity shows one row per server process.

## Waiting

Processes wait for locks; long waits are logged. Naïve 🐘 elephants never forget.`

test("what is found is cited exactly", async () => {
  const own = harness.newTenant()
  const id = newId()
  await own.ingest(id, 1, handbook)
  const [best] = await own.search("which processes are waiting on a lock")
  const { workspaceId } = own
  const request = { workspaceId, documentId: id, includeText: true }
  const { text } = await own.ingestion.getDocument(request, own.as())
  const citation = best?.citation
  expect(citation).toMatchObject({ documentId: id, version: 1n, title: "Handbook" })
  expect(citation?.headingPath).toEqual(["Server", "Waiting"])
  expect([...text].slice(citation?.start, citation?.end).join("")).toBe(citation?.text)
  expect(citation?.textSha256).toBe(sha256(citation?.text ?? ""))
  expect(await own.verify(citation)).toMatchObject({
    verdict: CitationVerdict.VERIFIED,
    current: true,
  })
})

test.each([
  ["$libdir", "Start"],
  ["_PG_init", "Start"],
  ["pg_stat_activity", "Views"],
  ["stat activity", "Views"],
  ["pg_stat_act", "Views"],
  ["naive elephant", "Waiting"],
  ["elefant wait", "Waiting"],
  ["proceses", "Views"],
  ["the", "Start"],
])("%j is found below %j", async (query, heading) => {
  const own = harness.newTenant()
  await own.ingest(newId(), 1, handbook)
  await own.ingest(newId(), 1, "# Other\n\nAn activity of the directory.", { title: "Other" })
  const found = await own.search(query)
  expect(found[0]?.citation?.headingPath.at(-1)).toBe(heading)
})

test("the beginning of an identifier finds those that begin so, and only where nothing is called so", async () => {
  const own = harness.newTenant()
  const [activity, statements] = [newId(), newId()]
  await own.ingest(activity, 1, "Look at pg_stat_activity.", { title: "One" })
  await own.ingest(statements, 1, "Look at pg_stat_statements.", { title: "Two" })
  await own.ingest(newId(), 1, "Look at pgbench_accounts.", { title: "Three" })
  const titles = async (query: string) =>
    (await own.search(query)).map(({ citation }) => citation?.title).sort()
  expect(await titles("pg_stat")).toEqual(["One", "Two"])
  expect(await titles("pgbench_acc")).toEqual(["Three"])
  await own.remove(activity, 1)
  expect(await titles("pg_stat_act")).not.toContain("One")
})

test.each(["", " ", "...", "qqqqqqqq", "' or 1=1 --", "a:*&!|(", "\u200b"])(
  "the query %j is no error",
  async (query) => {
    const own = harness.newTenant()
    await own.ingest(newId(), 1, handbook)
    if (query === "") expect(await reason(own.search(query))).toBe("INVALID_REQUEST")
    else expect(await own.search(query)).toBeInstanceOf(Array)
  },
)

test("vectors that are asked for where there are none are refused by name", async () => {
  const own = harness.newTenant()
  const { workspaceId } = own
  await own.ingest(newId(), 1, handbook)
  const ask = (mode: SearchMode) =>
    own.searching.search({ workspaceId, query: "locks", mode }, own.as())
  expect((await ask(SearchMode.UNSPECIFIED)).mode).toBe(SearchMode.LEXICAL)
  expect((await ask(SearchMode.LEXICAL)).passages).toHaveLength(1)
  const refused = await ask(SearchMode.HYBRID).catch((error: unknown) => error)
  expect(reasonOf(refused)).toBe("INVALID_REQUEST")
  expect(String(refused)).toContain("mode")
})

test("scripts other than Latin are found", async () => {
  const own = harness.newTenant()
  await own.ingest(newId(), 1, "数据库的全文检索功能很强大。", { title: "zh" })
  await own.ingest(newId(), 1, "قاعدة البيانات سريعة", { title: "ar" })
  await own.ingest(newId(), 1, "Die Datenbank überprüft Straßen", { title: "de" })
  expect((await own.search("全文检索"))[0]?.citation?.title).toBe("zh")
  expect((await own.search("البيانات"))[0]?.citation?.title).toBe("ar")
  expect((await own.search("UBERPRUFT"))[0]?.citation?.title).toBe("de")
})

test("a search may be kept to some documents and to some passages of each", async () => {
  const own = harness.newTenant()
  const [first, second] = [newId(), newId()]
  const sections = ["a", "b", "c", "d"].map((name) => `# ${name}\n\ntortoise ${name}`).join("\n\n")
  await own.ingest(first, 1, sections)
  await own.ingest(second, 1, sections)
  expect(await own.search("tortoise", { perDocumentLimit: 1 })).toHaveLength(2)
  expect(await own.search("tortoise")).toHaveLength(6)
  const { workspaceId } = own
  const request = { workspaceId, query: "tortoise", documentIds: [second, newId()] }
  const { passages } = await own.searching.search(request, own.as())
  expect(new Set(passages.map(({ citation }) => citation?.documentId))).toEqual(new Set([second]))
})

test("nothing of another workspace is found, counted, read or verified", async () => {
  const [own, other] = [harness.newTenant(), harness.newTenant()]
  const [ownId, otherId] = [newId(), newId()]
  await own.ingest(ownId, 1, "The heron waits by the water.")
  const before = await own.search("heron water")
  for (let i = 0; i < 5; i++)
    await other.ingest(newId(), 1, "heron heron water", { title: "heron" })
  await other.ingest(otherId, 1, "The secret heron.")
  expect(await own.search("heron water")).toEqual(before)
  expect(await own.search("secret")).toEqual([])

  const { workspaceId } = own
  const foreign = own.searching.search(
    { workspaceId, query: "heron", documentIds: [otherId] },
    own.as(),
  )
  expect((await foreign).passages).toEqual([])
  const [secret] = await other.search("secret")
  expect(await reason(own.verify(secret?.citation))).toBe("NOT_FOUND")
  const read = own.ingestion.getDocument({ workspaceId, documentId: otherId }, own.as())
  expect(await reason(read)).toBe("NOT_FOUND")
  await own.remove(otherId, 9)
  expect((await other.verify(secret?.citation)).verdict).toBe(CitationVerdict.VERIFIED)
})

test("the same id may be used in two workspaces, and neither sees the other's", async () => {
  const [own, other] = [harness.newTenant(), harness.newTenant()]
  const id = newId()
  await own.ingest(id, 1, "mine alone")
  await other.ingest(id, 1, "theirs alone")
  expect((await own.search("alone")).map(({ citation }) => citation?.text)).toEqual(["mine alone"])
})

test("a deleted document is not found by any search that starts after the answer", async () => {
  const own = harness.newTenant()
  for (let round = 0; round < 10; round++) {
    const id = newId()
    await own.ingest(id, 1, "ephemeral mayfly")
    const during = Array.from({ length: 4 }, () => own.search("mayfly"))
    await own.remove(id, 1)
    expect(await own.search("mayfly")).toEqual([])
    await Promise.all(during)
  }
})

test("a citation that was changed anywhere is not verified", async () => {
  const own = harness.newTenant()
  const other = newId()
  await own.ingest(newId(), 1, handbook)
  await own.ingest(other, 1, "Another document.")
  const [best] = await own.search("pg_stat_activity")
  const good = best?.citation
  if (good === undefined) throw new Error("nothing was found")
  const changed = good.text.replace("one row", "two rows")
  const { TEXT_MISMATCH, SOURCE_MISMATCH, VERSION_GONE } = CitationVerdict
  const cases: readonly (readonly [Partial<typeof good>, CitationVerdict])[] = [
    [{ text: changed, textSha256: sha256(changed), end: good.end + 1 }, TEXT_MISMATCH],
    [{ textSha256: "0".repeat(64) }, TEXT_MISMATCH],
    [{ start: good.start + 1 }, TEXT_MISMATCH],
    [{ start: good.end, end: good.start }, TEXT_MISMATCH],
    [{ end: 3_999_999 }, TEXT_MISMATCH],
    [{ documentId: other }, TEXT_MISMATCH],
    [{ title: "Forged" }, SOURCE_MISMATCH],
    [{ headingPath: ["Server"] }, SOURCE_MISMATCH],
    [{ passageId: newId() }, SOURCE_MISMATCH],
    [{ version: 2n }, VERSION_GONE],
  ]
  for (const [change, verdict] of cases) {
    const verified = await own.verify({ ...good, ...change })
    expect(verified.verdict, Object.keys(change).join()).toBe(verdict)
  }
  const part = [...good.text].slice(2, 20).join("")
  const shorter = { ...good, start: good.start + 2, end: good.start + 20, text: part }
  const verified = await own.verify({ ...shorter, textSha256: sha256(part) })
  expect(verified.verdict).toBe(CitationVerdict.VERIFIED)
})

test("a citation outlives new versions, but not too many of them and not a deletion", async () => {
  const own = harness.newTenant()
  const id = newId()
  await own.ingest(id, 1, "first edition")
  const [first] = await own.search("edition")
  await own.ingest(id, 2, "second edition")
  expect(await own.verify(first?.citation)).toMatchObject({
    verdict: CitationVerdict.VERIFIED,
    current: false,
  })
  for (const version of [3, 4]) await own.ingest(id, version, `edition number ${version}`)
  expect((await own.verify(first?.citation)).verdict).toBe(CitationVerdict.VERSION_GONE)
  const [last] = await own.search("edition")
  await own.remove(id, 4)
  expect((await own.verify(last?.citation)).verdict).toBe(CitationVerdict.DOCUMENT_DELETED)
  await own.ingest(id, 5, "edition number 4")
  expect((await own.verify(last?.citation)).verdict).toBe(CitationVerdict.DOCUMENT_DELETED)
})

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex")
}

async function reason(call: Promise<unknown>): Promise<string | undefined> {
  try {
    await call
    return undefined
  } catch (error) {
    return reasonOf(error)
  }
}
