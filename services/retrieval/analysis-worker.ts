/** The thread in which documents are read: nothing that a document contains can hold up the service. */
import { parentPort } from "node:worker_threads"
import { type Analysis, analyse, type Source } from "./analysis.ts"

/** The thread's answer to one source. `too_complex` is a document that no parser gets through. */
export type AnalysisAnswer =
  | { readonly kind: "analysed"; readonly analysis: Analysis }
  | { readonly kind: "too_complex" }
  | { readonly kind: "failed"; readonly message: string }

/** What the thread says: once that it is ready, then an answer to each source. */
export type ThreadMessage = { readonly kind: "ready" } | AnalysisAnswer

parentPort?.on("message", (source: Source) => say(answer(source)))
say({ kind: "ready" })

function say(message: ThreadMessage): void {
  parentPort?.postMessage(message)
}

function answer(source: Source): AnalysisAnswer {
  try {
    return { kind: "analysed", analysis: analyse(source) }
  } catch (error) {
    // Markup that is nested without end exhausts the stack of the parser.
    if (error instanceof RangeError) return { kind: "too_complex" }
    return { kind: "failed", message: String(error) }
  }
}
