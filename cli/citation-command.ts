import { text as readAll } from "node:stream/consumers"
import { fromJson, type JsonValue } from "@bufbuild/protobuf"
import type { Command } from "commander"
import { type Citation, CitationSchema } from "../gen/runwarden/retrieval/v1/citation_pb.ts"
import {
  CitationVerdict,
  CitationVerdictSchema,
  SearchService,
  VerifyCitationResponseSchema,
} from "../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { type Cli, type Context, command, group } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { exitCodes } from "./exit-code.ts"
import { CliError } from "./failure.ts"

const meanings: Readonly<Record<number, string>> = {
  [CitationVerdict.VERIFIED]: "it holds: every field agrees with the stored version",
  [CitationVerdict.TEXT_MISMATCH]: "the text, its hash or its place is not what is stored",
  [CitationVerdict.SOURCE_MISMATCH]: "the text is right, but title, headings or passage are not",
  [CitationVerdict.VERSION_GONE]: "the version is not stored any more, or never was",
  [CitationVerdict.DOCUMENT_DELETED]: "the document was deleted at this version",
}

export function citationCommands(cli: Cli): Command {
  return group("citation", "check what is cited", [
    command(cli, "verify [json]", "check a citation against what is stored", {
      examples: [
        "search -o json api key | jq .passages[0].citation | npx runwarden citation verify",
        `citation verify '{"documentId": "…", "version": "1", …}'`,
      ],
      more: "\nReads the citation from stdin where it is not given. Exit code: 0 where it holds, else 1.",
      action: verify,
    }),
  ])
}

async function verify(context: Context, _: object, [given]: string[]): Promise<void> {
  const { out, io } = context
  const citation = readCitation(given ?? (await readAll(io.stdin)))
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(SearchService)
    .verifyCitation({ workspaceId, citation }, session.options)
  const { verdict, current } = response
  const holds = verdict === CitationVerdict.VERIFIED
  out.message(VerifyCitationResponseSchema, response, () => {
    const name = enumText(CitationVerdictSchema, verdict).replaceAll("_", " ")
    const meaning = meanings[verdict] ?? "this program does not know it: treat it as not verified"
    out.marked(holds ? "success" : "failure", `${name}: ${meaning}`)
    if (holds && !current) out.note("There is a newer version of the document.")
  })
  if (!holds) context.exitWith(exitCodes.error)
}

function readCitation(text: string): Citation {
  try {
    const value = JSON.parse(text) as JsonValue
    const isWrapped =
      typeof value === "object" && value !== null && !Array.isArray(value) && "citation" in value
    return fromJson(CitationSchema, isWrapped ? (value.citation ?? null) : value)
  } catch (error) {
    throw new CliError("This is no citation as a search gives it (protobuf JSON).", {
      next: "See `npx runwarden search -o json …`, .passages[].citation.",
      cause: error,
    })
  }
}
