/** The thread in which documents are read: nothing that a document contains can hold up the service. */
import { parentPort } from "node:worker_threads"
import { type Analysis, analyse, type Source } from "./analysis.ts"
import { UnreadableContent } from "./unreadable.ts"

/** The thread's answer to one source. `unreadable` is a document that no parser gets through. */
export type AnalysisAnswer =
  | { readonly kind: "analysed"; readonly analysis: Analysis }
  | { readonly kind: "unreadable"; readonly description: string }
  | { readonly kind: "failed"; readonly message: string }

/** What the thread says: once that it is ready, then an answer to each source. */
export type ThreadMessage = { readonly kind: "ready" } | AnalysisAnswer

parentPort?.on("message", (source: Source) => void answer(source).then(say))
say({ kind: "ready" })

function say(message: ThreadMessage): void {
  parentPort?.postMessage(message)
}

async function answer(source: Source): Promise<AnalysisAnswer> {
  try {
    return { kind: "analysed", analysis: await analyse(source) }
  } catch (error) {
    // Markup that is nested without end exhausts the stack of the parser.
    if (error instanceof RangeError)
      return { kind: "unreadable", description: "it is nested too deeply" }
    if (error instanceof UnreadableContent)
      return { kind: "unreadable", description: error.message }
    return { kind: "failed", message: String(error) }
  }
}
