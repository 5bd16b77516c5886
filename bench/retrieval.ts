/**
 * Measures retrieval on public test sets: nDCG@10, R@10 and hit@1 by document, the time of a search
 * and of an ingestion. The sets are read from RUNWARDEN_EVAL_DATA, a folder with one folder per set:
 * corpus.jsonl (_id, title, text), queries.jsonl (_id, text), qrels.tsv (query, document, grade).
 *
 * usage: RUNWARDEN_EVAL_DATA=… DATABASE_URL=postgres://superuser@… node bench/retrieval.ts [set …]
 * (without DATABASE_URL an embedded PostgreSQL is started)
 */
import { createReadStream } from "node:fs"
import { readFile } from "node:fs/promises"
import { cpus } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { v5 } from "uuid"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { IngestionService } from "../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { SearchService } from "../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { EventService } from "../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { actingAs, memberSubject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { route } from "../mesh/service.ts"
import { startTestServer, testRunVariable, testServerVariable } from "../mesh/test-database.ts"
import { testClient, testDatabase, testRuntime } from "../mesh/testing.ts"
import { createRetrieval } from "../services/retrieval/service.ts"

interface Entry {
  readonly _id: string
  readonly title?: string
  readonly text: string
}

const depth = 10
const folder = process.env.RUNWARDEN_EVAL_DATA
if (folder === undefined)
  throw new Error("RUNWARDEN_EVAL_DATA must name the folder of the test sets")
const sets =
  process.argv.length > 2 ? process.argv.slice(2) : ["docs-postgresql15", "retrieval-cranfield"]

await using server = await startTestServer(process.env.DATABASE_URL)
process.env[testServerVariable] = server.url
process.env[testRunVariable] = server.run
console.log(`${cpus().length} x ${cpus()[0]?.model}, Node ${process.version}`)
for (const set of sets) await measure(join(folder, set), set)

async function measure(path: string, name: string): Promise<void> {
  await using stack = new AsyncDisposableStack()
  const database = stack.use(await testDatabase("retrieval"))
  const runtime = testRuntime("retrieval")
  const recordEvents = () => ({})
  const batchRecordEvents = () => ({})
  const telemetry = {
    runtime: testRuntime("telemetry"),
    routes: [route(EventService, { recordEvents, batchRecordEvents })],
  }
  const service = stack.use(
    createRetrieval(
      { database, analyser: { threads: 2, timeoutMs: 30_000, maxWaiting: 64 }, keptVersions: 5 },
      { runtime, telemetry: testClient(EventService, telemetry, "retrieval") },
    ),
  )
  await service.start(new AbortController().signal)
  const target = { routes: service.routes, runtime }
  const ingestion = testClient(IngestionService, target)
  const searching = testClient(SearchService, target)
  const workspaceId = newId()
  const caller = () =>
    actingAs(memberSubject(workspaceId, "bench", Role.MEMBER), { timeoutMs: 60_000 })

  const names = new Map<string, string>()
  const corpus = await readEntries(join(path, "corpus.jsonl"))
  const before = performance.now()
  await inParallel(4, corpus, async (entry) => {
    const documentId = v5(entry._id, workspaceId)
    names.set(documentId, entry._id)
    const rest = {
      title: entry.title || entry._id,
      mediaType: "text/markdown",
      content: entry.text,
    }
    const request = { workspaceId, requestId: newId(), documentId, version: 1n, ...rest }
    await ingestion.ingestDocument(request, caller())
  })
  const seconds = (performance.now() - before) / 1000

  const judgements = await readJudgements(join(path, "qrels.tsv"))
  const sums = { ndcg: 0, recall: 0, hit: 0, queries: 0 }
  const times: number[] = []
  for (const query of await readEntries(join(path, "queries.jsonl"))) {
    const grades = judgements.get(query._id)
    if (grades === undefined) continue
    const limits = { limit: depth, perDocumentLimit: 1 }
    const start = performance.now()
    const answer = await searching.search({ workspaceId, query: query.text, ...limits }, caller())
    times.push(performance.now() - start)
    const found = answer.passages.map(({ citation }) => names.get(citation?.documentId ?? "") ?? "")
    const gains = found.map((id) => grades.get(id) ?? 0)
    sums.ndcg += discounted(gains) / discounted([...grades.values()].sort((a, b) => b - a))
    sums.recall += gains.filter((gain) => gain > 0).length / grades.size
    sums.hit += (gains[0] ?? 0) > 0 ? 1 : 0
    sums.queries++
  }
  times.sort((a, b) => a - b)
  const mean = (sum: number) => (sum / sums.queries).toFixed(3)
  const at = (share: number) => `${times[Math.floor(times.length * share)]?.toFixed(1)} ms`
  console.log(
    `${name}: ${corpus.length} documents, ${(corpus.length / seconds).toFixed(0)}/s; ` +
      `${sums.queries} queries: nDCG@10 ${mean(sums.ndcg)}, R@10 ${mean(sums.recall)}, ` +
      `hit@1 ${mean(sums.hit)}, p50 ${at(0.5)}, p95 ${at(0.95)}`,
  )
}

function discounted(gains: readonly number[]): number {
  return gains.slice(0, depth).reduce((sum, gain, rank) => sum + gain / Math.log2(rank + 2), 0)
}

async function readEntries(path: string): Promise<readonly Entry[]> {
  const entries: Entry[] = []
  for await (const line of createInterface({ input: createReadStream(path) }))
    if (line !== "") entries.push(JSON.parse(line) as Entry)
  return entries
}

/** Positive grades by query and document; queries without any are left out. */
async function readJudgements(
  path: string,
): Promise<ReadonlyMap<string, ReadonlyMap<string, number>>> {
  const judgements = new Map<string, Map<string, number>>()
  for (const line of (await readFile(path, "utf8")).trim().split("\n").slice(1)) {
    const [query = "", document = "", grade = "0"] = line.split("\t")
    if (Number(grade) <= 0) continue
    const grades = judgements.get(query) ?? new Map<string, number>()
    judgements.set(query, grades.set(document, Number(grade)))
  }
  return judgements
}

async function inParallel<T>(width: number, items: readonly T[], work: (item: T) => Promise<void>) {
  const queue = [...items].values()
  const lane = async () => {
    for (const item of queue) await work(item)
  }
  await Promise.all(Array.from({ length: width }, lane))
}
