import { z } from "zod"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { type Environment, milliseconds, readAll, readEnv } from "../../mesh/config.ts"
import { type DatabaseConfig, readDatabaseConfig } from "../../mesh/database.ts"
import type { DefaultRule } from "./approval/approval-rule.ts"
import type { RunLimits } from "./budget/run-limits.ts"

/** How runs are carried out by one replica. */
export interface ExecutorConfig {
  /** How long a replica owns a run without renewing; another one takes it over after that. */
  readonly leaseMs: number
  /** The longest pause between two looks for due runs: what another replica makes due is seen then. */
  readonly pollMs: number
  /** Runs that a replica carries out at once; further ones stay queued. */
  readonly maxRuns: number
  /** How long a stop waits for executing calls before it hands them over. */
  readonly drainMs: number
  /** Deadline of one moderation. */
  readonly moderateTimeoutMs: number
  /** Deadline of one attempt to execute a call. */
  readonly executeTimeoutMs: number
  /** How often a call that could not be delivered is sent again. */
  readonly maxRetries: number
  /** The first wait between two attempts; it doubles. */
  readonly retryMs: number
  /** How long to wait for a call that is in flight elsewhere, or that was told to stop. */
  readonly settleMs: number
  /** How long an answer about the requester's membership counts while a run goes on. */
  readonly membershipMs: number
  /** Owners that may vanish over a run before it is given up. */
  readonly maxCrashes: number
}

export interface OrchestratorConfig {
  readonly limits: RunLimits
  readonly database: DatabaseConfig
  readonly executor: ExecutorConfig
  /** Who answers where no rule of the workspace fits. */
  readonly approval: DefaultRule & {
    /** Questions that may wait in a workspace at the same time. */
    readonly maxOpen: number
  }
  /** Deadline of a run that names none. */
  readonly runTimeoutMs: number
  readonly watch: { readonly maxWatchers: number; readonly pollMs: number }
}

/** When a run is looked at again that could not go on now: soon, as leases go. */
export function giveBackMs({ leaseMs }: Pick<ExecutorConfig, "leaseMs">): number {
  return leaseMs / 10
}

const count = z.coerce.number().int().positive()

/** Reads the configuration; throws one error that lists every problem. */
export function readConfig(env: Environment): OrchestratorConfig {
  const [database, values] = readAll(
    () => readDatabaseConfig("orchestrator", env),
    () =>
      readEnv(
        {
          ORCHESTRATOR_LEASE_MS: milliseconds.default(10_000),
          ORCHESTRATOR_POLL_MS: milliseconds.default(1_000),
          ORCHESTRATOR_MAX_RUNS: count.default(256),
          ORCHESTRATOR_DRAIN_MS: milliseconds.default(5_000),
          ORCHESTRATOR_MODERATE_TIMEOUT_MS: milliseconds.max(60_000).default(5_000),
          ORCHESTRATOR_EXECUTE_TIMEOUT_MS: milliseconds.max(60_000).default(30_000),
          ORCHESTRATOR_EXECUTE_RETRIES: count.default(6),
          ORCHESTRATOR_EXECUTE_RETRY_MS: milliseconds.default(200),
          ORCHESTRATOR_SETTLE_MS: milliseconds.default(12_000),
          ORCHESTRATOR_MEMBERSHIP_MS: milliseconds.max(60_000).default(5_000),
          ORCHESTRATOR_MAX_CRASHES: count.default(3),
          ORCHESTRATOR_APPROVAL_EXPIRY_MS: milliseconds.default(86_400_000),
          ORCHESTRATOR_APPROVAL_ROLE: z.enum(["approver", "admin"]).default("approver"),
          ORCHESTRATOR_APPROVAL_BY_REQUESTER: z.enum(["allowed", "refused"]).default("refused"),
          ORCHESTRATOR_MAX_OPEN_APPROVALS: count.default(10_000),
          ORCHESTRATOR_RUN_TIMEOUT_MS: milliseconds.default(86_400_000),
          ORCHESTRATOR_WARN_RUN_EVENTS: count.default(2_000),
          ORCHESTRATOR_MAX_RUN_EVENTS: count.default(10_000),
          ORCHESTRATOR_WARN_RUN_BYTES: count.default(2_097_152),
          ORCHESTRATOR_MAX_RUN_BYTES: count.default(10_485_760),
          ORCHESTRATOR_MAX_PLAN_STEPS: count.max(200).default(200),
          ORCHESTRATOR_MAX_ARGUMENT_BYTES: count.max(131_072).default(131_072),
          ORCHESTRATOR_MAX_WATCHERS: count.default(1_000),
          ORCHESTRATOR_WATCH_POLL_MS: milliseconds.default(1_000),
        },
        env,
      ),
  )
  return {
    database,
    executor: {
      leaseMs: values.ORCHESTRATOR_LEASE_MS,
      pollMs: values.ORCHESTRATOR_POLL_MS,
      maxRuns: values.ORCHESTRATOR_MAX_RUNS,
      drainMs: values.ORCHESTRATOR_DRAIN_MS,
      moderateTimeoutMs: values.ORCHESTRATOR_MODERATE_TIMEOUT_MS,
      executeTimeoutMs: values.ORCHESTRATOR_EXECUTE_TIMEOUT_MS,
      maxRetries: values.ORCHESTRATOR_EXECUTE_RETRIES,
      retryMs: values.ORCHESTRATOR_EXECUTE_RETRY_MS,
      settleMs: values.ORCHESTRATOR_SETTLE_MS,
      membershipMs: values.ORCHESTRATOR_MEMBERSHIP_MS,
      maxCrashes: values.ORCHESTRATOR_MAX_CRASHES,
    },
    approval: {
      expiryMs: values.ORCHESTRATOR_APPROVAL_EXPIRY_MS,
      approverRole: values.ORCHESTRATOR_APPROVAL_ROLE === "admin" ? Role.ADMIN : Role.APPROVER,
      isDistinctFromRequester: values.ORCHESTRATOR_APPROVAL_BY_REQUESTER === "refused",
      quorum: 1,
      allowsDelegation: false,
      allowsBreakGlass: false,
      maxOpen: values.ORCHESTRATOR_MAX_OPEN_APPROVALS,
    },
    runTimeoutMs: values.ORCHESTRATOR_RUN_TIMEOUT_MS,
    limits: {
      events: {
        warnAt: values.ORCHESTRATOR_WARN_RUN_EVENTS,
        most: values.ORCHESTRATOR_MAX_RUN_EVENTS,
      },
      payloadBytes: {
        warnAt: values.ORCHESTRATOR_WARN_RUN_BYTES,
        most: values.ORCHESTRATOR_MAX_RUN_BYTES,
      },
      maxSteps: values.ORCHESTRATOR_MAX_PLAN_STEPS,
      maxArgumentBytes: values.ORCHESTRATOR_MAX_ARGUMENT_BYTES,
    },
    watch: {
      maxWatchers: values.ORCHESTRATOR_MAX_WATCHERS,
      pollMs: values.ORCHESTRATOR_WATCH_POLL_MS,
    },
  }
}
