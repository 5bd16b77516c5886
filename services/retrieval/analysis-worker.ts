/** The thread in which documents are read: nothing that a document contains can hold up the service. */
import { parentPort } from "node:worker_threads"
import { type Analysis, analyse, type Source } from "./analysis.ts"

/** The thread's answer to one source. `too_complex` is a document that no parser gets through. */
export type AnalysisAnswer =
  | { readonly kind: "analysed"; readonly analysis: Analysis }
  | { readonly kind: "too_complex" }
  | { readonly kind: "failed"; readonly message: string }

parentPort?.on("message", (source: Source) => parentPort?.postMessage(answer(source)))

function answer(source: Source): AnalysisAnswer {
  try {
    return { kind: "analysed", analysis: analyse(source) }
  } catch (error) {
    // Markup that is nested without end exhausts the stack of the parser.
    if (error instanceof RangeError) return { kind: "too_complex" }
    return { kind: "failed", message: String(error) }
  }
}
