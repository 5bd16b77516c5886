import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import {
  DeleteOutcome,
  IngestOutcome,
} from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { until } from "../../mesh/testing.ts"
import { type Harness, startRetrieval } from "./retrieval-harness.ts"

let harness: Harness
beforeAll(async () => {
  harness = await startRetrieval()
})
afterAll(() => harness[Symbol.asyncDispose]())

test("a document is ingested, read, listed and deleted", async () => {
  const own = harness.newTenant()
  const id = newId()
  const { document, outcome } = await own.ingest(id, 1, "# Wombats\n\nThey dig burrows. 🐾")
  expect(outcome).toBe(IngestOutcome.INDEXED)
  expect(document).toMatchObject({ documentId: id, version: 1n, passageCount: 1, textLength: 28 })
  const request = { workspaceId: own.workspaceId, documentId: id, includeText: true }
  const read = await own.ingestion.getDocument(request, own.as(Role.VIEWER))
  expect(read.text).toBe("Wombats\n\nThey dig burrows. 🐾")
  expect(read.document).toEqual(document)
  expect((await own.remove(id, 1)).outcome).toBe(DeleteOutcome.DELETED)
  expect(await reason(own.ingestion.getDocument(request, own.as()))).toBe("NOT_FOUND")
  const { workspaceId } = own
  expect((await own.ingestion.listDocuments({ workspaceId }, own.as())).documents).toEqual([])
})

test("the list goes page by page and shows each document once", async () => {
  const own = harness.newTenant()
  const ids = Array.from({ length: 5 }, () => newId()).sort()
  for (const id of ids) await own.ingest(id, 1, "text")
  const seen: string[] = []
  let pageToken = ""
  do {
    const request = { workspaceId: own.workspaceId, pageSize: 2, pageToken }
    const page = await own.ingestion.listDocuments(request, own.as())
    seen.push(...page.documents.map(({ documentId }) => documentId))
    pageToken = page.nextPageToken
  } while (pageToken !== "")
  expect(seen).toEqual(ids)
})

test("versions decide, in every order of arrival", async () => {
  const own = harness.newTenant()
  const orders = permutations(["ingest 1", "ingest 2", "delete 2", "ingest 3"] as const)
  for (const order of orders) {
    const id = newId()
    for (const call of order) {
      const [kind, version] = call.split(" ")
      if (kind === "delete") await own.remove(id, Number(version))
      else await own.ingest(id, Number(version), `version ${version} of ${id}`)
    }
    const [found, ...others] = (await own.search(id, { perDocumentLimit: 10 })).filter(
      ({ citation }) => citation?.documentId === id,
    )
    expect(others).toEqual([])
    expect(found?.citation).toMatchObject({ version: 3n, text: `version 3 of ${id}` })
  }
})

test("a deletion that comes first holds against the ingestion that comes late", async () => {
  const own = harness.newTenant()
  const id = newId()
  expect((await own.remove(id, 2)).outcome).toBe(DeleteOutcome.DELETED)
  const late = await own.ingest(id, 2, "revenant")
  expect(late.outcome).toBe(IngestOutcome.DELETED)
  expect(late.document).toBeUndefined()
  expect(await own.search("revenant")).toEqual([])
})

test("older and equal versions change nothing; equal with other content is refused", async () => {
  const own = harness.newTenant()
  const id = newId()
  await own.ingest(id, 2, "original")
  expect((await own.ingest(id, 2, "original")).outcome).toBe(IngestOutcome.UNCHANGED)
  expect((await own.ingest(id, 1, "older")).outcome).toBe(IngestOutcome.STALE)
  expect((await own.remove(id, 1)).outcome).toBe(DeleteOutcome.STALE)
  expect(await reason(own.ingest(id, 2, "other"))).toBe("ALREADY_EXISTS")
  expect((await own.search("original"))[0]?.citation?.version).toBe(2n)
})

test("many versions at once leave the newest, and only it is found", async () => {
  const own = harness.newTenant()
  const id = newId()
  const versions = [3, 1, 5, 2, 4, 5, 1]
  await Promise.all(versions.map((version) => own.ingest(id, version, `edition e${version}`)))
  const found = await own.search("edition", { perDocumentLimit: 10 })
  expect(found.map(({ citation }) => citation?.text)).toEqual(["edition e5"])
})

test("a request id gets one answer", async () => {
  const own = harness.newTenant()
  const id = newId()
  const requestId = newId()
  const first = await own.ingest(id, 1, "text", { requestId })
  await own.ingest(id, 2, "newer")
  expect(await own.ingest(id, 1, "text", { requestId })).toEqual(first)
  expect(await reason(own.ingest(id, 1, "another", { requestId }))).toBe("REQUEST_ID_CONFLICT")
})

test.each([
  ["content", { content: "a\0b" }],
  ["content", { content: "a\ud800b" }],
  ["title", { title: "a\0b" }],
  ["source_uri", { sourceUri: "a\udfff" }],
])("%s that is no text is refused by name: %j", async (field, bad) => {
  const own = harness.newTenant()
  const { workspaceId } = own
  const request = { workspaceId, requestId: newId(), documentId: newId(), version: 1n }
  const call = own.ingestion.ingestDocument(
    { ...request, title: "t", mediaType: "text/plain", content: "x", ...bad },
    own.as(),
  )
  expect(await reason(call)).toMatch(/^(INVALID_REQUEST|MALFORMED_REQUEST)$/)
  await expect(call).rejects.toThrow(field === "source_uri" ? /source_?uri/i : field)
})

test("a deletion leaves nothing of the content, and replays are as before", async () => {
  const own = harness.newTenant()
  const id = newId()
  const requestId = newId()
  const title = "Quokkaplan"
  const answer = await own.ingest(id, 1, "the numbat text", { title, requestId })
  expect(answer.document?.title).toBe(title)
  expect(await own.ingest(id, 1, "the numbat text", { title, requestId })).toEqual(answer)
  await own.remove(id, 1)
  const tables = ["documents", "document_versions", "postings", "vocabulary", "requests", "outbox"]
  const hex = (word: string) => Buffer.from(word).toString("hex")
  const traces = ["Quokkaplan", "quokkaplan", "numbat", hex("Quokkaplan"), hex("numbat")]
  for (const table of tables) {
    const rows = await harness.database.tenant(own.workspaceId, (tx) =>
      tx.query<{ row: string }>(`select t::text as row from ${table} t`),
    )
    if (table === "requests") expect(rows).toHaveLength(2)
    for (const trace of traces) expect(rows.filter(({ row }) => row.includes(trace))).toEqual([])
  }
  expect(await own.ingest(id, 1, "the numbat text", { title, requestId })).toEqual(answer)
})

test.each([
  ["Wombat", ""],
  ["Wombat burrow", ""],
  ["...", ""],
  ["...", "wombat"],
])("a document titled %j with the content %j is indexed", async (title, content) => {
  const own = harness.newTenant()
  const { outcome } = await own.ingest(newId(), 1, content, { title })
  expect(outcome).toBe(IngestOutcome.INDEXED)
  const hasPassage = content !== ""
  expect(await own.search("wombat")).toHaveLength(hasPassage ? 1 : 0)
})

test("two replicas that take two versions at once leave the newer one, once", async () => {
  await using replica = await harness.startReplica()
  for (let round = 0; round < 12; round++) {
    const own = harness.newTenant()
    const there = replica.newTenant(own.workspaceId)
    const id = newId()
    const calls = [
      () => own.ingest(id, 1, "wombat one"),
      () => there.ingest(id, 2, "wombat two"),
      () => there.remove(id, 1),
      () => own.ingest(id, 2, "wombat two"),
    ]
    const turned = [...calls.slice(round % 4), ...calls.slice(0, round % 4)]
    await Promise.all(turned.map((call) => call()))
    const found = await there.search("wombat", { perDocumentLimit: 10 })
    expect(found.map(({ citation }) => citation?.text)).toEqual(["wombat two"])
    await own.remove(id, 2)
    expect(await there.search("wombat")).toEqual([])
    const corpus = "select document_count, word_count from corpora"
    const sizes = await harness.database.tenant(own.workspaceId, (tx) => tx.one(corpus))
    expect(sizes).toEqual({ document_count: 0, word_count: 0 })
  }
})

test("what is kept of terms is what the documents hold, after every change", async () => {
  const own = harness.newTenant()
  const ids = Array.from({ length: 4 }, () => newId())
  const words = ["wombat", "heron", "pg_stat_activity", "the", "mayfly"]
  const text = (seed: number) => words.filter((_, i) => (seed >> i) % 2 === 1).join(" ")
  const write = async (id: string, lane: number) => {
    for (let version = 1; version <= 6; version++) {
      const isDeletion = (lane + version) % 4 === 0
      if (isDeletion) await own.remove(id, version)
      else await own.ingest(id, version, text(version * 5 + lane * 3))
    }
  }
  await Promise.all(ids.map(write))
  const counted = await harness.database.tenant(own.workspaceId, (tx) =>
    tx.query("select term, count(*)::int as n from postings group by term order by term"),
  )
  const kept = await harness.database.tenant(own.workspaceId, (tx) =>
    tx.query("select term, document_count as n from vocabulary order by term"),
  )
  expect(counted.length).toBeGreaterThan(0)
  expect(kept).toEqual(counted)
  for (const id of ids) await own.remove(id, 9)
  const left = await harness.database.tenant(own.workspaceId, (tx) =>
    tx.query("select term from vocabulary"),
  )
  expect(left).toEqual([])
})

test("other media types and content beyond the limit are refused", async () => {
  const own = harness.newTenant()
  const picture = own.ingest(newId(), 1, "<svg/>", { mediaType: "image/svg+xml" })
  expect(await reason(picture)).toBe("UNSUPPORTED_MEDIA_TYPE")
  expect(await reason(own.ingest(newId(), 1, "é".repeat(600_000)))).toBe("INVALID_REQUEST")
})

test("a viewer reads and does not write", async () => {
  const own = harness.newTenant()
  const { workspaceId } = own
  const request = { workspaceId, requestId: newId(), documentId: newId(), version: 1n }
  const call = own.ingestion.deleteDocument(request, own.as(Role.VIEWER))
  expect(await reason(call)).toBe("ROLE_TOO_LOW")
})

test("telemetry hears of what was indexed and deleted, once", async () => {
  const own = harness.newTenant()
  const id = newId()
  await own.ingest(id, 1, "text")
  await own.ingest(id, 1, "text")
  await own.remove(id, 1)
  const heard = () =>
    harness.events.flatMap(({ workspaceId, event: { payload } }) =>
      workspaceId === own.workspaceId && payload.case === "resourceChanged" ? [payload.value] : [],
    )
  await until(() => heard().length >= 2)
  expect(heard()).toMatchObject([
    { resource: "index", resourceId: id, change: "indexed" },
    { resource: "index", resourceId: id, change: "deleted" },
  ])
})

test("a document of 1 MB does not hold up the service", async () => {
  const own = harness.newTenant()
  const line = "Some words of the manual, with `code_one` in them, and then some more words. "
  const content = `# Big\n\n${`${line.repeat(12)}\n\n`.repeat(1_100)}`
  const stalls = watchLoop()
  const { document } = await own.ingest(newId(), 1, content.slice(0, 1_040_000))
  const longestMs = stalls.stop()
  expect(document?.passageCount).toBeGreaterThan(500)
  expect(longestMs).toBeGreaterThan(0)
  expect(longestMs).toBeLessThan(200)
}, 60_000)

test("markup without end is refused, and the next document is read", async () => {
  await using impatient = await startRetrieval({ analyser: { timeoutMs: 700 } })
  const own = impatient.newTenant()
  await own.ingest(newId(), 1, "warm")
  expect(await reason(own.ingest(newId(), 1, "*a_".repeat(20_000)))).toBe("INVALID_REQUEST")
  expect((await own.ingest(newId(), 1, "fine")).outcome).toBe(IngestOutcome.INDEXED)
  await using patient = await startRetrieval()
  const nested = patient.newTenant().ingest(newId(), 1, `${">".repeat(20_000)} a`)
  expect(await reason(nested)).toBe("INVALID_REQUEST")
}, 60_000)

/**
 * The most that this thread computed between two turns of its loop. CPU time, not the clock, so that
 * a busy machine does not count as a stall.
 */
function watchLoop(): { stop(): number } {
  const usedMs = () => {
    const { user, system } = process.threadCpuUsage()
    return (user + system) / 1_000
  }
  let longest = 0
  let before = usedMs()
  const sample = () => {
    const now = usedMs()
    longest = Math.max(longest, now - before)
    before = now
  }
  const timer = setInterval(sample, 5)
  const stop = () => {
    clearInterval(timer)
    sample()
    return longest
  }
  return { stop }
}

async function reason(call: Promise<unknown>): Promise<string | undefined> {
  try {
    await call
    return undefined
  } catch (error) {
    return reasonOf(error)
  }
}

function permutations<T>(items: readonly T[]): readonly (readonly T[])[] {
  if (items.length === 0) return [[]]
  return items.flatMap((item, index) =>
    permutations(items.filter((_, other) => other !== index)).map((rest) => [item, ...rest]),
  )
}
