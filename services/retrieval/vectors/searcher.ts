/** Search as callers ask for it: by words alone, or by words and meaning where that can be had. */
import type { Database } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import type { Runtime } from "../../../mesh/service.ts"
import { type FoundPassage, rank, readFound, type SearchQuery } from "../search.ts"
import type { Embedder } from "./embedder.ts"
import { fuse } from "./fusion.ts"
import { findNearest, hasVectors } from "./vector-store.ts"

/** How passages are ranked; `best` is hybrid where it can be had, and lexical where it cannot. */
export type SearchMode = "best" | "lexical" | "hybrid"

export interface Found {
  readonly mode: "lexical" | "hybrid"
  readonly passages: readonly FoundPassage[]
}

export interface Searcher {
  /** Fails with INVALID_REQUEST where vectors are asked for that there are not. */
  search(
    workspaceId: string,
    query: SearchQuery,
    mode: SearchMode,
    signal: AbortSignal,
  ): Promise<Found>
}

/** What vectors need, and what is missing of it. */
export interface Vectors {
  readonly embedder: Embedder | undefined
  /** Whether the database stores them; asked once. */
  isStored(): Promise<boolean>
}

/** Passages of each ranking that are joined. */
const fusedPassages = 100

export function createVectors(
  database: Pick<Database, "shared">,
  embedder: Embedder | undefined,
): Vectors {
  let stored: boolean | undefined
  return {
    embedder,
    async isStored() {
      stored ??= await database.shared(hasVectors, { name: "hasVectors" })
      return stored
    },
  }
}

export function createSearcher(deps: {
  readonly database: Pick<Database, "tenant">
  readonly vectors: Vectors
  readonly log: Runtime["log"]
}): Searcher {
  const { database, vectors, log } = deps

  async function missing(): Promise<string | undefined> {
    if (vectors.embedder === undefined) return "needs RETRIEVAL_EMBEDDINGS_URL, which is not set"
    return (await vectors.isStored()) ? undefined : "needs pgvector, which the database has not"
  }

  /** The query's vector; undefined for a search by words alone. */
  async function embed(text: string, mode: SearchMode, signal: AbortSignal) {
    if (mode === "lexical" || (mode === "best" && vectors.embedder === undefined)) return undefined
    const description = await missing()
    if (description !== undefined) {
      if (mode === "best") return undefined
      const violations = [{ field: "mode", description }]
      throw new RunwardenError("INVALID_REQUEST", { field: "mode" }, { violations })
    }
    try {
      return (await vectors.embedder?.embed([text], signal))?.[0]
    } catch (error) {
      if (mode === "hybrid") throw error
      signal.throwIfAborted()
      log.warn({ err: error }, "searching by words alone")
      return undefined
    }
  }

  return {
    async search(workspaceId, query, mode, signal) {
      const vector = await embed(query.text, mode, signal)
      return await database.tenant(
        workspaceId,
        async (tx) => {
          if (vector === undefined || vectors.embedder === undefined) {
            return {
              mode: "lexical",
              passages: await readFound(tx, await rank(tx, query)),
            } as const
          }
          const limits = { passages: fusedPassages, perDocument: query.limits.perDocument }
          const byWords = await rank(tx, { ...query, limits })
          const near = { vector, model: vectors.embedder.model, limit: fusedPassages }
          const byMeaning = await findNearest(tx, { ...near, documentIds: query.documentIds })
          const passages = await readFound(tx, fuse([byWords, byMeaning], query.limits))
          return { mode: "hybrid", passages } as const
        },
        { signal, name: "search" },
      )
    },
  }
}
