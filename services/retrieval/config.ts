import { z } from "zod"
import { type Environment, milliseconds, readEnv } from "../../mesh/config.ts"
import { type DatabaseConfig, readDatabaseConfig } from "../../mesh/database.ts"
import type { AnalyserConfig } from "./analyser.ts"

export interface RetrievalConfig {
  readonly database: DatabaseConfig
  readonly analyser: AnalyserConfig
  /** How many versions of a document stay verifiable, the newest included. */
  readonly keptVersions: number
}

/**
 * Reads the service's environment: `RETRIEVAL_DATABASE_URL` and its companions,
 * `RETRIEVAL_ANALYSIS_THREADS` (default 2), `RETRIEVAL_ANALYSIS_TIMEOUT_MS` (default 15000),
 * `RETRIEVAL_ANALYSIS_QUEUE` (default 64), `RETRIEVAL_KEPT_VERSIONS` (default 20).
 */
export function readConfig(env: Environment): RetrievalConfig {
  const own = readEnv(
    {
      RETRIEVAL_ANALYSIS_THREADS: z.coerce.number().int().min(1).max(32).default(2),
      RETRIEVAL_ANALYSIS_TIMEOUT_MS: milliseconds.default(15_000),
      RETRIEVAL_ANALYSIS_QUEUE: z.coerce.number().int().min(1).max(10_000).default(64),
      RETRIEVAL_KEPT_VERSIONS: z.coerce.number().int().min(1).max(1_000).default(20),
    },
    env,
  )
  return {
    database: readDatabaseConfig("retrieval", env),
    analyser: {
      threads: own.RETRIEVAL_ANALYSIS_THREADS,
      timeoutMs: own.RETRIEVAL_ANALYSIS_TIMEOUT_MS,
      maxWaiting: own.RETRIEVAL_ANALYSIS_QUEUE,
    },
    keptVersions: own.RETRIEVAL_KEPT_VERSIONS,
  }
}
