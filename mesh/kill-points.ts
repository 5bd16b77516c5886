/**
 * The moments of a step at which the death of a process is tested. Each is one call of
 * `Runtime.reached`, which does nothing outside tests: a test's own process entry hands in a
 * function that kills the process, and no setting of a deployed service can.
 */
export const killPoints = [
  /** The orchestrator is about to store the change that admits a call. */
  "before_intent",
  /** The admission is committed, and nothing was sent. */
  "after_intent",
  /** The ledger has claimed the call; the provider has not been called. */
  "after_send",
  /** The provider has committed the effect, and not answered. */
  "after_effect",
  /** The ledger has the provider's answer, and has not recorded it. */
  "after_reply",
  /** The outcome is in the ledger, and the orchestrator has not stored it. */
  "after_outcome",
  /** The run has just begun to wait for an approval. */
  "during_approval_wait",
  /** Telemetry has taken events, and the sender has not noted that. */
  "during_outbox_publish",
  /** The database has renewed leases, and their owner does not know. */
  "during_heartbeat",
  /** What became of a call was found out (probed, sealed), and is not stored. */
  "during_settle",
  /** A run of another owner was taken over, and not read yet. */
  "in_recovery",
  /** A run that was taken over is about to go on: where a second death follows the first. */
  "twice_in_a_row",
] as const

export type KillPoint = (typeof killPoints)[number]

/** `Runtime.reached` of every process that is no test's. */
export function goOn(_point: KillPoint): void {}
