import { type Environment, milliseconds, readAll, readEnv } from "../../mesh/config.ts"
import { type DatabaseConfig, readDatabaseConfig } from "../../mesh/database.ts"

export interface ProjectsConfig {
  readonly database: DatabaseConfig
  /** How long retrieval may take to index one document. */
  readonly indexTimeoutMs: number
}

export function readConfig(env: Environment): ProjectsConfig {
  const [database, own] = readAll(
    () => readDatabaseConfig("projects", env),
    () => readEnv({ PROJECTS_INDEX_TIMEOUT_MS: milliseconds.default(30_000) }, env),
  )
  return { database, indexTimeoutMs: own.PROJECTS_INDEX_TIMEOUT_MS }
}
