import { z } from "zod"
import {
  type Environment,
  listenAddress,
  milliseconds,
  readAll,
  readEnv,
} from "../../mesh/config.ts"
import { type DatabaseConfig, readDatabaseConfig } from "../../mesh/database.ts"

export interface GatewayConfig {
  /** Where the world reaches the gateway. */
  readonly listen: string
  readonly database: DatabaseConfig
  /** How old what is known of a key or membership may be; at most 5 s. */
  readonly membershipCacheMs: number
  /** SHA-256 of the operator's key; without it nobody is an operator. */
  readonly operatorKeyHash: Buffer | undefined
}

const maxMembershipCacheMs = 5_000

/**
 * Reads `GATEWAY_LISTEN` (127.0.0.1:7100), `GATEWAY_MEMBERSHIP_CACHE_MS` (5000, which is the most),
 * `GATEWAY_OPERATOR_KEY_SHA256` (optional, hex) and the database's URLs.
 */
export function readConfig(env: Environment): GatewayConfig {
  const [database, own] = readAll(
    () => readDatabaseConfig("gateway", env),
    () =>
      readEnv(
        {
          GATEWAY_LISTEN: listenAddress.default("127.0.0.1:7100"),
          GATEWAY_MEMBERSHIP_CACHE_MS: milliseconds
            .max(maxMembershipCacheMs)
            .default(maxMembershipCacheMs),
          GATEWAY_OPERATOR_KEY_SHA256: z
            .string()
            .regex(/^[0-9a-fA-F]{64}$/, "must be the SHA-256 of a key, 64 hex digits")
            .optional(),
        },
        env,
      ),
  )
  const operatorKey = own.GATEWAY_OPERATOR_KEY_SHA256
  return {
    listen: own.GATEWAY_LISTEN,
    database,
    membershipCacheMs: own.GATEWAY_MEMBERSHIP_CACHE_MS,
    operatorKeyHash: operatorKey === undefined ? undefined : Buffer.from(operatorKey, "hex"),
  }
}
