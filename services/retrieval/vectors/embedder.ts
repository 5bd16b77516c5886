/**
 * Owns: the way to an endpoint that speaks OpenAI's embeddings API.
 *
 * 1. Every call has a deadline of its own, and an answer is read up to a limit.
 * 2. After `failuresToOpen` calls in a row that failed, calls fail at once for `openMs`; then one is
 *    let through to try.
 * 3. An answer counts only as a whole: a finite vector of the right length for each text, in order.
 * 4. Nothing is repeated here; whoever called may call again.
 */
import { z } from "zod"
import { createEgress } from "../../../mesh/egress.ts"
import { RunwardenError } from "../../../mesh/errors.ts"

export interface EmbeddingsConfig {
  /** What stands before `/embeddings`, such as `https://api.example.com/v1`. */
  readonly url: string
  readonly model: string
  readonly dimensions: number
  readonly key: string | undefined
  readonly timeoutMs: number
}

export interface Embedder extends AsyncDisposable {
  readonly model: string
  readonly dimensions: number
  /** A vector for each text. Fails with DEPENDENCY_UNAVAILABLE. */
  embed(texts: readonly string[], signal?: AbortSignal): Promise<readonly Vector[]>
}

export type Vector = readonly number[]

/** Most texts of one call. */
const batchSize = 64
/** What a number takes in JSON, with room. */
const bytesPerNumber = 32
const failuresToOpen = 5
const openMs = 10_000

const answerSchema = z.object({
  data: z.array(z.object({ index: z.number().int(), embedding: z.array(z.number().finite()) })),
})

export function createEmbedder(config: EmbeddingsConfig): Embedder {
  const { model, dimensions, key, timeoutMs } = config
  const url = `${config.url.replace(/\/+$/, "")}/embeddings`
  const egress = createEgress({ configured: [new URL(url).origin] })
  let failures = 0
  let openUntil = 0

  async function embedBatch(texts: readonly string[], signal?: AbortSignal) {
    const headers = new Headers({ "content-type": "application/json" })
    if (key !== undefined) headers.set("authorization", `Bearer ${key}`)
    const body = JSON.stringify({ model, dimensions, input: texts, encoding_format: "float" })
    const maxBytes = 65_536 + texts.length * dimensions * bytesPerNumber
    const init = { method: "POST", headers, body, ...(signal === undefined ? {} : { signal }) }
    const response = await egress.fetch(url, init, { timeoutMs, maxBytes })
    if (!response.ok) {
      await response.body?.cancel()
      throw new Error(`the endpoint answered ${response.status}`)
    }
    const { data } = answerSchema.parse(await response.json())
    const vectors = new Map(data.map(({ index, embedding }) => [index, embedding]))
    return texts.map((_, index) => {
      const vector = vectors.get(index)
      if (vector?.length !== dimensions) throw new Error("the answer is not that of the texts") // (3)
      return vector
    })
  }

  return {
    model,
    dimensions,
    async embed(texts, signal) {
      if (performance.now() < openUntil) throw unavailable(undefined) // (2)
      try {
        const vectors: Vector[] = []
        for (let at = 0; at < texts.length; at += batchSize) {
          vectors.push(...(await embedBatch(texts.slice(at, at + batchSize), signal)))
        }
        failures = 0
        return vectors
      } catch (error) {
        signal?.throwIfAborted()
        failures++
        if (failures >= failuresToOpen) openUntil = performance.now() + openMs
        throw unavailable(error)
      }
    },
    [Symbol.asyncDispose]: () => egress[Symbol.asyncDispose](),
  }
}

function unavailable(cause: unknown): RunwardenError {
  return new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "embeddings" }, { cause })
}
