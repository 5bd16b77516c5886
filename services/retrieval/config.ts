import { z } from "zod"
import { ConfigError, type Environment, milliseconds, readEnv } from "../../mesh/config.ts"
import { type DatabaseConfig, readDatabaseConfig } from "../../mesh/database.ts"
import type { AnalyserConfig } from "./analyser.ts"
import type { EmbeddingsConfig } from "./vectors/embedder.ts"

export interface RetrievalConfig {
  readonly database: DatabaseConfig
  readonly analyser: AnalyserConfig
  /** How many versions of a document stay verifiable, the newest included. */
  readonly keptVersions: number
  /** Absent where search is by words alone. */
  readonly embeddings?: EmbeddingsConfig
}

/** The numbers of dimensions for which the database has an index. */
const indexedDimensions = [384, 768, 1024, 1536]

/**
 * Reads the service's environment: `RETRIEVAL_DATABASE_URL` and its companions,
 * `RETRIEVAL_ANALYSIS_THREADS` (default 2), `RETRIEVAL_ANALYSIS_TIMEOUT_MS` (default 15000),
 * `RETRIEVAL_ANALYSIS_QUEUE` (default 64), `RETRIEVAL_KEPT_VERSIONS` (default 20), and for vectors
 * `RETRIEVAL_EMBEDDINGS_URL`, `RETRIEVAL_EMBEDDINGS_MODEL`, `RETRIEVAL_EMBEDDINGS_KEY`,
 * `RETRIEVAL_EMBEDDINGS_DIMENSIONS` (default 1536), `RETRIEVAL_EMBEDDINGS_TIMEOUT_MS` (default 10000).
 */
export function readConfig(env: Environment): RetrievalConfig {
  const own = readEnv(
    {
      RETRIEVAL_ANALYSIS_THREADS: z.coerce.number().int().min(1).max(32).default(2),
      RETRIEVAL_ANALYSIS_TIMEOUT_MS: milliseconds.default(15_000),
      RETRIEVAL_ANALYSIS_QUEUE: z.coerce.number().int().min(1).max(10_000).default(64),
      RETRIEVAL_KEPT_VERSIONS: z.coerce.number().int().min(1).max(1_000).default(20),
      RETRIEVAL_EMBEDDINGS_URL: z.url({ protocol: /^https?$/ }).optional(),
      RETRIEVAL_EMBEDDINGS_MODEL: z.string().optional(),
      RETRIEVAL_EMBEDDINGS_KEY: z.string().optional(),
      RETRIEVAL_EMBEDDINGS_DIMENSIONS: z.coerce
        .number()
        .refine((value) => indexedDimensions.includes(value), "must be 384, 768, 1024 or 1536")
        .default(1536),
      RETRIEVAL_EMBEDDINGS_TIMEOUT_MS: milliseconds.default(10_000),
    },
    env,
  )
  const { RETRIEVAL_EMBEDDINGS_URL: url, RETRIEVAL_EMBEDDINGS_MODEL: model } = own
  if (url !== undefined && model === undefined)
    throw new ConfigError([
      "RETRIEVAL_EMBEDDINGS_MODEL is required beside RETRIEVAL_EMBEDDINGS_URL",
    ])
  return {
    database: readDatabaseConfig("retrieval", env),
    analyser: {
      threads: own.RETRIEVAL_ANALYSIS_THREADS,
      timeoutMs: own.RETRIEVAL_ANALYSIS_TIMEOUT_MS,
      maxWaiting: own.RETRIEVAL_ANALYSIS_QUEUE,
    },
    keptVersions: own.RETRIEVAL_KEPT_VERSIONS,
    ...(url === undefined || model === undefined
      ? {}
      : {
          embeddings: {
            url,
            model,
            key: own.RETRIEVAL_EMBEDDINGS_KEY,
            dimensions: own.RETRIEVAL_EMBEDDINGS_DIMENSIONS,
            timeoutMs: own.RETRIEVAL_EMBEDDINGS_TIMEOUT_MS,
          },
        }),
  }
}
