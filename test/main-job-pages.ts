// The pages and questions of a real manual, as the main job reads them. The set is no part of the
// project: what is here are places in its files, and its text goes only into a temporary folder.
import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import path from "node:path"

/** One page: its name in the set, and the text that is ingested for it. */
export interface Page {
  readonly pageId: string
  readonly content: string
  /** SHA-256 (hex) of the content: by it a document is known again. */
  readonly sha256: string
}

/** One question, and the pages that the book's own index gives for it. */
export interface Question {
  readonly questionId: string
  readonly text: string
  readonly pageIds: ReadonlySet<string>
}

export interface Manual {
  readonly pages: readonly Page[]
  readonly questions: readonly Question[]
}

/** Every so many lines one question is taken, so that they come from the whole alphabet. */
const stride = 60

/** Reads the manual below the folder of test sets; undefined where it is not there. */
export function readManual(folder: string | undefined, questionCount: number): Manual | undefined {
  if (folder === undefined || folder === "") return undefined
  const place = path.join(folder, "docs-postgresql15")
  if (!existsSync(path.join(place, "corpus.jsonl"))) return undefined
  const relevant = readJudgements(path.join(place, "qrels.tsv"))
  const rows = readRows<{ _id: string; text: string }>(path.join(place, "queries.jsonl"))
  return {
    pages: readRows<{ _id: string; title: string; text: string }>(
      path.join(place, "corpus.jsonl"),
    ).map(({ _id: pageId, title, text }) => {
      const content = `# ${title}\n\n${text}`
      return { pageId, content, sha256: createHash("sha256").update(content).digest("hex") }
    }),
    questions: rows
      .filter((_, index) => index % stride === 0)
      .slice(0, questionCount)
      .map(({ _id: questionId, text }) => ({
        questionId,
        text,
        pageIds: relevant.get(questionId) ?? new Set(),
      })),
  }
}

/** Writes each page as a Markdown file. */
export function writePages(pages: readonly Page[], folder: string): void {
  mkdirSync(folder, { recursive: true })
  for (const { pageId, content } of pages) {
    writeFileSync(path.join(folder, `${pageId}.md`), content)
  }
}

function readJudgements(file: string): Map<string, Set<string>> {
  const relevant = new Map<string, Set<string>>()
  for (const line of readLines(file).slice(1)) {
    const [questionId = "", pageId = ""] = line.split("\t")
    relevant.set(questionId, (relevant.get(questionId) ?? new Set()).add(pageId))
  }
  return relevant
}

function readRows<Row>(file: string): readonly Row[] {
  return readLines(file).map((line) => JSON.parse(line) as Row)
}

function readLines(file: string): readonly string[] {
  return readFileSync(file, "utf8")
    .split("\n")
    .filter((line) => line !== "")
}
