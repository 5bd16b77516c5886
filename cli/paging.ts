/** Lists for people: as many pages as the limit asks for. */
import type { Command } from "commander"
import { wholeNumber } from "./command.ts"

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

/** What to say below a list that goes on. */
export function moreNote(nextPageToken: string): string {
  return `There are more: add --page-token ${nextPageToken}`
}
