/** Real questions in five scripts: every answer cited exactly, every article a workspace of its own. */
import { createHash } from "node:crypto"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { v5 } from "uuid"
import { afterAll, beforeAll, expect, test } from "vitest"
import { CitationVerdict } from "../../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { type Harness, startRetrieval, type Tenant } from "./retrieval-harness.ts"

interface Paragraph {
  readonly _id: string
  readonly article: number
  readonly title: string
  readonly text: string
}

interface Question {
  readonly _id: string
  readonly doc_id: string
  readonly text: string
  readonly answers: readonly {
    readonly text: string
    readonly start: number
    readonly end: number
  }[]
}

const folder = join(process.env.RUNWARDEN_EVAL_DATA ?? "", "qa-spans-xquad")
const hasData = process.env.RUNWARDEN_EVAL_DATA !== undefined && existsSync(folder)
if (!hasData) console.log("skipped: citations in five languages (set RUNWARDEN_EVAL_DATA)")

let harness: Harness
beforeAll(async () => {
  harness = await startRetrieval()
})
afterAll(() => harness[Symbol.asyncDispose]())

test.skipIf(!hasData).each(["en", "es", "de", "zh", "ar"])(
  "every answer span in %s is cited by offsets that give it back",
  async (language) => {
    const own = harness.newTenant()
    const paragraphs = read<Paragraph>(`corpus.${language}.jsonl`)
    await ingestAll(own, paragraphs)
    const questions = read<Question>(`questions.${language}.jsonl`)
    const verdicts = await inParallel(8, questions, async ({ doc_id, text: question, answers }) => {
      const [answer] = answers
      if (answer === undefined) throw new Error("a question without an answer")
      const query = [...`${answer.text} ${question}`].slice(0, 2_000).join("")
      const stored = await findPassages(own, v5(doc_id, own.workspaceId), query)
      const held = stored.find(({ start, end }) => start <= answer.start && answer.end <= end)
      if (held === undefined) return "in no passage"
      const { start, end, text } = answer
      const hash = createHash("sha256").update(text).digest("hex")
      const { verdict } = await own.verify({ ...held, start, end, text, textSha256: hash })
      return verdict
    })
    expect(verdicts.filter((verdict) => verdict !== CitationVerdict.VERIFIED)).toEqual([])
  },
  240_000,
)

test.skipIf(!hasData)(
  "of 48 articles as 48 workspaces, none finds or counts what another holds",
  async () => {
    const paragraphs = read<Paragraph>("corpus.en.jsonl")
    const articles = Map.groupBy(paragraphs, ({ article }) => article)
    expect(articles.size).toBe(48)
    const tenants = new Map([...articles.keys()].map((article) => [article, harness.newTenant()]))
    await using alone = await startRetrieval()
    await inParallel(2, [...articles], async ([article, own]) => {
      const tenant = tenants.get(article)
      if (tenant !== undefined) await ingestAll(tenant, own)
    })
    const articleOf = new Map(paragraphs.map(({ _id, article }) => [_id, article]))
    const questions = read<Question>("questions.en.jsonl").filter((_, index) => index % 4 === 0)
    await inParallel(2, questions, async ({ doc_id, text }, index) => {
      const home = articleOf.get(doc_id) ?? 0
      const guest = (home + 1 + (index % 47)) % 48
      for (const article of [home, guest]) {
        const tenant = tenants.get(article)
        if (tenant === undefined) throw new Error("no such article")
        const found = await tenant.search(text)
        const own = new Set(articles.get(article)?.map(({ _id }) => v5(_id, tenant.workspaceId)))
        const foreign = found.filter(({ citation }) => !own.has(citation?.documentId ?? ""))
        expect(foreign).toEqual([])
      }
    })
    for (const [article, tenant] of [...tenants].slice(0, 4)) {
      const lonely = alone.newTenant(tenant.workspaceId)
      await ingestAll(lonely, articles.get(article) ?? [])
      for (const { text } of questions.slice(0, 20)) {
        expect(await tenant.search(text)).toEqual(await lonely.search(text))
      }
    }
  },
  240_000,
)

function read<T>(file: string): readonly T[] {
  const lines = readFileSync(join(folder, file), "utf8").trim().split("\n")
  return lines.map((line) => JSON.parse(line) as T)
}

async function ingestAll(own: Tenant, paragraphs: readonly Paragraph[]): Promise<void> {
  await inParallel(4, paragraphs, ({ _id, title, text }) =>
    own.ingest(v5(_id, own.workspaceId), 1, text, { title, mediaType: "text/plain" }),
  )
}

/** The passages of one document that hold any of the words. */
async function findPassages(own: Tenant, documentId: string, query: string) {
  const { workspaceId } = own
  const request = { workspaceId, query, documentIds: [documentId], limit: 50, perDocumentLimit: 50 }
  const { passages } = await own.searching.search(request, own.as())
  return passages.flatMap(({ citation }) => citation ?? [])
}

async function inParallel<T, R>(
  width: number,
  items: readonly T[],
  work: (item: T, index: number) => Promise<R>,
): Promise<readonly R[]> {
  const results: R[] = []
  const queue = items.entries()
  const lane = async () => {
    for (const [index, item] of queue) results[index] = await work(item, index)
  }
  await Promise.all(Array.from({ length: width }, lane))
  return results
}
