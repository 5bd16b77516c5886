/**
 * What the ledger tool did, as lines of JSON in a file of its own: the record that nothing else in
 * the world writes, against which every claim about effects is checked.
 *
 * 1. An effect is its line: it has happened once the line is on disk, and not before.
 * 2. A line that a crash cut off never happened; the next writer cuts it off for good.
 */
import { closeSync, existsSync, ftruncateSync, openSync, readFileSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"

export interface LedgerLine {
  /** `attempt`: a request arrived. `sealed`: told to somebody as never executed, and so it stays. */
  readonly kind: "attempt" | "effect" | "sealed"
  readonly at: number
  readonly workspaceId: string
  readonly tool: string
  readonly key: string
  readonly effect: "read" | "keyed" | "unsafe" | ""
  /** SHA-256 of the canonical arguments that arrived. */
  readonly digest: string
  readonly actorId: string
  readonly runId: string
  /** What was answered, or would have been. */
  readonly text: string
}

/** Every whole line of the file, oldest first. */
export function readLedger(file: string): readonly LedgerLine[] {
  if (!existsSync(file)) return []
  const text = readFileSync(file, "utf8")
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as LedgerLine)
}

export interface LedgerWriter extends AsyncDisposable {
  /** Resolves once the line is on disk. Lines that come together share one sync. */
  append(line: LedgerLine): Promise<void>
}

export async function openLedger(file: string): Promise<LedgerWriter> {
  cutBrokenLine(file)
  const handle = await open(file, "a")
  let waiting: { readonly text: string; readonly done: () => void }[] = []
  let writing: Promise<void> | undefined

  async function write(): Promise<void> {
    while (waiting.length > 0) {
      const batch = waiting
      waiting = []
      await sync(handle, batch.map(({ text }) => text).join(""))
      for (const { done } of batch) done()
    }
    writing = undefined
  }

  return {
    append(line) {
      const { promise, resolve } = Promise.withResolvers<void>()
      waiting.push({ text: `${JSON.stringify(line)}\n`, done: resolve })
      writing ??= write()
      return promise
    },
    async [Symbol.asyncDispose]() {
      await writing
      await handle.close()
    },
  }
}

async function sync(handle: FileHandle, text: string): Promise<void> {
  await handle.appendFile(text)
  await handle.datasync()
}

function cutBrokenLine(file: string): void {
  if (!existsSync(file)) return
  const bytes = readFileSync(file)
  const end = bytes.lastIndexOf("\n") + 1
  if (end === bytes.length) return
  const descriptor = openSync(file, "r+")
  ftruncateSync(descriptor, end)
  closeSync(descriptor)
}
