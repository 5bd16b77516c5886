/**
 * Owns: a few threads that read documents, started when they are first needed.
 * States of a thread: idle, busy with one source, ended.
 * 1. A thread reads one source at a time; what waits is answered in the order of arrival.
 * 2. A source that takes longer than the limit costs its thread: the thread is ended and the next
 *    source gets a new one.
 * 3. No more than `maxWaiting` sources wait; a further one is refused.
 */
import { Worker } from "node:worker_threads"
import { RunwardenError } from "../../mesh/errors.ts"
import type { Analysis, Source } from "./analysis.ts"
import type { AnalysisAnswer } from "./analysis-worker.ts"

export interface AnalyserConfig {
  readonly threads: number
  /** Longest that one document may take. */
  readonly timeoutMs: number
  readonly maxWaiting: number
}

export interface Analyser extends AsyncDisposable {
  /** Fails with INVALID_REQUEST for content that cannot be read in time. */
  analyse(source: Source, signal?: AbortSignal): Promise<Analysis>
}

interface Job {
  readonly source: Source
  readonly signal: AbortSignal | undefined
  readonly resolve: (analysis: Analysis) => void
  readonly reject: (error: unknown) => void
}

export function createAnalyser(config: AnalyserConfig): Analyser {
  const idle: Worker[] = []
  const busy = new Set<Worker>()
  const waiting: Job[] = []
  let isClosed = false

  function next(): void {
    while (busy.size < config.threads) {
      const job = waiting.shift()
      if (job === undefined) return
      if (job.signal?.aborted === true) job.reject(job.signal.reason)
      else read(job)
    }
  }

  function read(job: Job): void {
    const worker = idle.pop() ?? startWorker()
    busy.add(worker)
    const settle = (isReusable: boolean, finish: () => void) => {
      clearTimeout(timer)
      worker.removeAllListeners()
      busy.delete(worker)
      if (isReusable && !isClosed) idle.push(worker)
      else void worker.terminate()
      finish()
      next()
    }
    const timer = setTimeout(
      () => settle(false, () => job.reject(unreadable("it takes too long to parse"))),
      config.timeoutMs,
    )
    worker.once("message", (answer: AnalysisAnswer) => settle(true, () => finishJob(job, answer)))
    worker.once("error", (error) => settle(false, () => job.reject(error)))
    worker.once("exit", () => settle(false, () => job.reject(stopping())))
    worker.postMessage(job.source)
  }

  return {
    analyse(source, signal) {
      if (isClosed) return Promise.reject(stopping())
      if (waiting.length >= config.maxWaiting) {
        const metadata = { limit: "waiting_documents", maximum: String(config.maxWaiting) }
        return Promise.reject(
          new RunwardenError("LIMIT_EXCEEDED", metadata, { retryAfterMs: 1_000 }),
        )
      }
      const { promise, resolve, reject } = Promise.withResolvers<Analysis>()
      waiting.push({ source, signal, resolve, reject })
      next()
      return promise
    },
    async [Symbol.asyncDispose]() {
      isClosed = true
      for (const job of waiting.splice(0)) job.reject(stopping())
      await Promise.all([...idle.splice(0), ...busy].map((worker) => worker.terminate()))
    },
  }
}

function startWorker(): Worker {
  const worker = new Worker(new URL("./analysis-worker.ts", import.meta.url), {
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: 512 },
  })
  worker.unref()
  return worker
}

function finishJob(job: Job, answer: AnalysisAnswer): void {
  switch (answer.kind) {
    case "analysed":
      job.resolve(answer.analysis)
      break
    case "too_complex":
      job.reject(unreadable("it is nested too deeply"))
      break
    case "failed":
      job.reject(new Error(`analysis failed: ${answer.message}`))
      break
    default:
      job.reject(new Error(`no such answer: ${answer satisfies never}`))
  }
}

function unreadable(description: string): RunwardenError {
  return new RunwardenError(
    "INVALID_REQUEST",
    { field: "content" },
    { violations: [{ field: "content", description }] },
  )
}

function stopping(): RunwardenError {
  return new RunwardenError("SHUTTING_DOWN", { service: "retrieval" })
}
