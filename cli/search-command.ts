import type { Command } from "commander"
import {
  SearchResponseSchema,
  SearchService,
} from "../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, wholeNumber } from "./command.ts"
import { CliError } from "./failure.ts"

interface SearchOptions {
  readonly limit: number
  readonly perDocument: number
  readonly document?: string[]
  readonly full?: boolean
}

const snippetLength = 240

export function searchCommand(cli: Cli): Command {
  return command<SearchOptions>(cli, "search <words...>", "search the documents of the workspace", {
    examples: [
      "search what happens when moderation is away",
      "search --limit 3 api key",
      "search -o json api key   # whole citations, for citation verify",
    ],
    configure: (made) =>
      made
        .option("--limit <n>", "most passages", wholeNumber(1, 50), 5)
        .option("--per-document <n>", "most passages of one document", wholeNumber(1, 50), 3)
        .option("--document <id>", "only in this document; may be given again", collect)
        .option("--full", "whole passages instead of their beginnings"),
    action: search,
  })
}

async function search(context: Context, options: SearchOptions, words: string[]): Promise<void> {
  const { out } = context
  const query = words.join(" ").trim()
  if (query === "") throw new CliError("There is nothing to search for.")
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session.client(SearchService).search(
    {
      workspaceId,
      query,
      limit: options.limit,
      perDocumentLimit: options.perDocument,
      documentIds: options.document ?? [],
    },
    session.options,
  )
  out.message(SearchResponseSchema, response, () => {
    const found = response.passages.flatMap(({ citation }) => citation ?? [])
    if (found.length === 0) out.note("Nothing was found.")
    for (const [index, citation] of found.entries()) {
      if (out.isQuiet) {
        out.line(citation.documentId)
        continue
      }
      const headings = citation.headingPath.filter((one) => one !== citation.title)
      out.heading(`${index + 1}. ${[citation.title, ...headings].join(" › ")}`)
      out.line(options.full === true ? citation.text : shortened(citation.text, snippetLength))
      const place = `characters ${citation.start}–${citation.end}`
      out.line(`   document ${citation.documentId} version ${citation.version}, ${place}\n`)
    }
  })
}

function collect(one: string, before: string[] = []): string[] {
  return [...before, one]
}
