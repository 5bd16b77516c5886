/**
 * Owns: a few threads that read documents, started when they are first needed.
 * States of a thread: idle, busy with one source, ended.
 * 1. A thread reads one source at a time; what waits is answered in the order of arrival.
 * 2. A source that takes longer or more memory than the limits, or that nobody waits for any more,
 *    costs its thread: the thread is ended and the next source gets a new one. What is unpacked lies
 *    outside the heap, where no limit of the runtime holds, so the thread's memory is looked at.
 * 3. No more than `maxWaiting` sources wait; a further one is refused.
 */
import { Worker } from "node:worker_threads"
import { RunwardenError } from "../../mesh/errors.ts"
import type { Analysis, Source } from "./analysis.ts"
import type { AnalysisAnswer, ThreadMessage } from "./analysis-worker.ts"

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

/** What becomes of the job that a thread is busy with. */
interface Thread {
  readonly worker: Worker
  readonly ready: Promise<void>
  finish: ((end: "answered" | "ended", settle: (job: Job) => void) => void) | undefined
}

/** Most memory that one document may take. */
const mostBytes = 512 * 2 ** 20
const memoryCheckMs = 50
const tooLarge = "it takes too much memory to parse"

export function createAnalyser(config: AnalyserConfig): Analyser {
  const idle: Thread[] = []
  const busy = new Set<Thread>()
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
    const thread = idle.pop() ?? startThread()
    busy.add(thread)
    let timer: NodeJS.Timeout | undefined
    let watch: NodeJS.Timeout | undefined
    const isPending = () => thread.finish === finish
    const overrun = (description: string) => {
      if (isPending()) finish("ended", (given) => given.reject(unreadable(given, description)))
    }
    const lookAtMemory = async () => {
      const used = await usedBytes(thread.worker)
      if (used > mostBytes) overrun(tooLarge)
    }
    // The start of a thread is not the document's fault.
    void thread.ready.then(() => {
      if (!isPending()) return
      timer = setTimeout(overrun, config.timeoutMs, "it takes too long to parse")
      watch = setInterval(() => void lookAtMemory(), memoryCheckMs)
    })
    const abort = () => thread.finish?.("ended", ({ reject }) => reject(job.signal?.reason))
    job.signal?.addEventListener("abort", abort, { once: true })
    const finish: NonNullable<Thread["finish"]> = (end, settle) => {
      thread.finish = undefined
      clearTimeout(timer)
      clearInterval(watch)
      job.signal?.removeEventListener("abort", abort)
      busy.delete(thread)
      if (end === "answered" && !isClosed) idle.push(thread)
      else void thread.worker.terminate()
      settle(job)
      next()
    }
    thread.finish = finish
    thread.worker.postMessage(job.source)
  }

  return {
    analyse(source, signal) {
      if (isClosed) return Promise.reject(stopping())
      if (waiting.length >= config.maxWaiting) {
        const metadata = { limit: "waiting_documents", maximum: String(config.maxWaiting) }
        const options = { retryAfterMs: 1_000 }
        return Promise.reject(new RunwardenError("LIMIT_EXCEEDED", metadata, options))
      }
      const { promise, resolve, reject } = Promise.withResolvers<Analysis>()
      waiting.push({ source, signal, resolve, reject })
      next()
      return promise
    },
    async [Symbol.asyncDispose]() {
      isClosed = true
      for (const job of waiting.splice(0)) job.reject(stopping())
      const threads = [...idle.splice(0), ...busy]
      for (const thread of threads) thread.finish?.("ended", ({ reject }) => reject(stopping()))
      await Promise.all(threads.map(({ worker }) => worker.terminate()))
    },
  }
}

/** Idle threads do not keep a process alive. */
function startThread(): Thread {
  const worker = new Worker(new URL("./analysis-worker.ts", import.meta.url), {
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: mostBytes / 2 ** 20 },
  })
  const ready = Promise.withResolvers<void>()
  const thread: Thread = { worker, ready: ready.promise, finish: undefined }
  worker.on("message", (message: ThreadMessage) => {
    if (message.kind === "ready") ready.resolve()
    else thread.finish?.("answered", (job) => finishJob(job, message))
  })
  worker.on("error", (error: NodeJS.ErrnoException) => {
    const isFull = error.code === "ERR_WORKER_OUT_OF_MEMORY"
    thread.finish?.("ended", (job) => job.reject(isFull ? unreadable(job, tooLarge) : error))
  })
  worker.on("exit", () => thread.finish?.("ended", ({ reject }) => reject(stopping())))
  worker.unref()
  return thread
}

function finishJob(job: Job, answer: AnalysisAnswer): void {
  switch (answer.kind) {
    case "analysed":
      job.resolve(answer.analysis)
      break
    case "unreadable":
      job.reject(unreadable(job, answer.description))
      break
    case "failed":
      job.reject(new Error(`analysis failed: ${answer.message}`))
      break
    default:
      job.reject(new Error(`no such answer: ${answer satisfies never}`))
  }
}

/** Heap and what hangs on it; nothing where the thread has ended. */
async function usedBytes(worker: Worker): Promise<number> {
  try {
    const { used_heap_size, external_memory } = await worker.getHeapStatistics()
    return used_heap_size + external_memory
  } catch {
    return 0
  }
}

function unreadable({ source }: Job, description: string): RunwardenError {
  const field = typeof source.content === "string" ? "content" : "data"
  return new RunwardenError("INVALID_REQUEST", { field }, { violations: [{ field, description }] })
}

function stopping(): RunwardenError {
  return new RunwardenError("SHUTTING_DOWN", { service: "retrieval" })
}
