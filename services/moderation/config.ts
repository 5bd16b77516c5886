import { type Environment, milliseconds, readAll, readEnv } from "../../mesh/config.ts"
import { type DatabaseConfig, readDatabaseConfig } from "../../mesh/database.ts"

export interface ModerationConfig {
  readonly database: DatabaseConfig
  /** How long judging one thing may take; what takes longer is blocked. */
  readonly evaluationLimitMs: number
}

export function readConfig(env: Environment): ModerationConfig {
  const [database, own] = readAll(
    () => readDatabaseConfig("moderation", env),
    () => readEnv({ MODERATION_EVALUATION_LIMIT_MS: milliseconds.default(2_000) }, env),
  )
  return { database, evaluationLimitMs: own.MODERATION_EVALUATION_LIMIT_MS }
}
