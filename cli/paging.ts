/** Lists for people: as many pages as the limit asks for. */
import {
  create,
  type DescMessage,
  type MessageInitShape,
  type MessageShape,
} from "@bufbuild/protobuf"
import type { Command } from "commander"
import { type Context, wholeNumber } from "./command.ts"

export interface PageOptions {
  readonly limit: number
  readonly pageToken?: string
}

const largestPage = 200

/** Adds the options of a list. */
export function addPageOptions(command: Command): Command {
  return command
    .option("--limit <n>", "most entries to list", wholeNumber(1, 10_000), 50)
    .option("--page-token <token>", "go on where an earlier list ended")
}

/** Reads pages until there are `limit` entries or no more. */
export async function readPages<Item>(
  options: PageOptions,
  read: (page: { readonly pageSize: number; readonly pageToken: string }) => Promise<{
    readonly items: readonly Item[]
    readonly nextPageToken: string
  }>,
): Promise<{ readonly items: Item[]; readonly nextPageToken: string }> {
  const items: Item[] = []
  let pageToken = options.pageToken ?? ""
  do {
    const pageSize = Math.min(largestPage, options.limit - items.length)
    const page = await read({ pageSize, pageToken })
    items.push(...page.items)
    pageToken = page.nextPageToken
  } while (pageToken !== "" && items.length < options.limit)
  return { items, nextPageToken: pageToken }
}

/** How a list is printed. */
export interface Listing<Item, Response extends DescMessage> {
  /** Reads one page. */
  read(page: { readonly pageSize: number; readonly pageToken: string }): Promise<{
    readonly items: readonly Item[]
    readonly nextPageToken: string
  }>
  readonly schema: Response
  /** The response that all pages together are, for JSON. */
  toResponse(items: Item[], nextPageToken: string): MessageInitShape<Response>
  readonly head: readonly string[]
  row(item: Item): readonly string[]
  /** What to say where there is nothing. */
  readonly empty: string
}

/** Reads and prints a list. */
export async function printList<Item, Response extends DescMessage>(
  { out }: Context,
  options: PageOptions,
  listing: Listing<Item, Response>,
): Promise<void> {
  const { items, nextPageToken } = await readPages(options, listing.read)
  const response = create(listing.schema, listing.toResponse(items, nextPageToken))
  out.message(listing.schema, response as MessageShape<Response>, () => {
    const rows = items.map((item) => listing.row(item))
    out.table(listing.head, rows, listing.empty)
    if (nextPageToken !== "") out.note(`There are more: add --page-token ${nextPageToken}`)
  })
}
