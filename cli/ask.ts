import { createInterface } from "node:readline/promises"
import type { Io } from "./io.ts"

/** Asks a person on the terminal; anything but y or yes, the end of the input too, is a no. */
export async function askYesNo(
  { stdin, stderr, signal }: Pick<Io, "stdin" | "stderr" | "signal">,
  question: string,
): Promise<boolean> {
  const lines = createInterface({ input: stdin, output: stderr })
  const closed = new AbortController()
  lines.once("close", () => closed.abort())
  try {
    const answer = await lines.question(question, {
      signal: AbortSignal.any([signal, closed.signal]),
    })
    return /^y(es)?$/i.test(answer.trim())
  } catch {
    signal.throwIfAborted()
    return false
  } finally {
    lines.close()
  }
}
