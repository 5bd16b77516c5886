/** Public test sets of retrieval, read from a folder with one folder per set. */
import { createHash } from "node:crypto"
import { createReadStream, existsSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { createInterface } from "node:readline"

export interface RetrievalSet {
  readonly name: string
  readonly documents: readonly TestDocument[]
  readonly queries: readonly TestQuery[]
  /** Whether weights may be chosen on a part of it; that part is reported apart. */
  readonly isTunedOn: boolean
}

export interface TestDocument {
  readonly id: string
  readonly title: string
  readonly text: string
}

export interface TestQuery {
  readonly id: string
  readonly text: string
  /** Positive grades by document. */
  readonly grades: ReadonlyMap<string, number>
}

interface Entry {
  readonly _id: string
  readonly title?: string
  readonly text: string
}

interface Question extends Entry {
  readonly doc_id: string
}

const xquad = "qa-spans-xquad"
const languages = ["en", "de", "es", "zh", "ar"]

export const setNames = ["docs-postgresql15", "retrieval-cranfield", xquad] as const

/** The sets of one folder; none where it is missing. */
export async function readSets(root: string, name: string): Promise<readonly RetrievalSet[]> {
  const folder = join(root, name)
  if (!existsSync(folder)) return []
  if (name === xquad)
    return Promise.all(languages.map((language) => readQuestions(folder, language)))
  const judgements = await readJudgements(join(folder, "qrels.tsv"))
  const queries = await readEntries<Entry>(join(folder, "queries.jsonl"))
  return [
    {
      name,
      documents: await readDocuments(join(folder, "corpus.jsonl")),
      queries: queries.flatMap(({ _id, text }) => {
        const grades = judgements.get(_id)
        return grades === undefined ? [] : [{ id: _id, text, grades }]
      }),
      isTunedOn: name === "docs-postgresql15",
    },
  ]
}

/** Half of the queries of a set, always the same ones: weights are chosen on these alone. */
export function isForTuning({ id }: TestQuery): boolean {
  return (createHash("sha256").update(id).digest()[0] ?? 0) % 2 === 0
}

async function readQuestions(folder: string, language: string): Promise<RetrievalSet> {
  const questions = await readEntries<Question>(join(folder, `questions.${language}.jsonl`))
  return {
    name: `${xquad} ${language}`,
    documents: await readDocuments(join(folder, `corpus.${language}.jsonl`)),
    queries: questions.map(({ _id, text, doc_id }) => {
      return { id: _id, text, grades: new Map([[doc_id, 1]]) }
    }),
    isTunedOn: false,
  }
}

async function readDocuments(path: string): Promise<readonly TestDocument[]> {
  const entries = await readEntries<Entry>(path)
  return entries.map(({ _id, title, text }) => ({ id: _id, title: title || _id, text }))
}

async function readEntries<T>(path: string): Promise<readonly T[]> {
  const entries: T[] = []
  for await (const line of createInterface({ input: createReadStream(path) }))
    if (line !== "") entries.push(JSON.parse(line) as T)
  return entries
}

/** Grades by query and document; what is graded 0 or less is left out. */
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
