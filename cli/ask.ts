import { createInterface } from "node:readline/promises"
import { setTimeout as sleep } from "node:timers/promises"
import type { Io } from "./io.ts"

type Asked = Pick<Io, "stdin" | "stderr" | "signal">

/** How long what was typed before the question is thrown away. */
const drainMs = 100

/**
 * Asks a person on the terminal; anything but y or yes, the end of the input too, is a no. What was
 * typed before the question was shown is no answer to it.
 */
export async function askYesNo(
  { stdin, stderr, signal }: Asked,
  question: string,
): Promise<boolean> {
  await drain(stdin, signal)
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

/** Reads raw, so that half a line that waits for its end is thrown away too. */
async function drain(stdin: Asked["stdin"], signal: AbortSignal): Promise<void> {
  if (stdin.setRawMode === undefined) return
  const discard = () => {}
  stdin.setRawMode(true)
  stdin.on("data", discard)
  try {
    await sleep(drainMs, undefined, { signal })
  } finally {
    stdin.off("data", discard)
    stdin.pause()
    stdin.setRawMode(false)
  }
}
