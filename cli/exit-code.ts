import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"

/** How a command ends, for scripts. Part of the contract: documented in --help and docs/cli.md. */
export const exitCodes = {
  ok: 0,
  error: 1,
  failed: 2,
  requiresAction: 3,
  denied: 4,
  ended: 5,
  interrupted: 130,
} as const

export const exitCodeHelp = `
Exit codes: 0 succeeded, 1 wrong usage or another error, 2 the run failed (a person's rejection
included), 3 it requires action, 4 denied by policy, 5 cancelled or expired, 130 interrupted.`

/** The exit code that a run's state stands for; an unknown state is no success. */
export function exitCodeOf(run: { readonly state: RunState; readonly reason: string }): number {
  switch (run.state) {
    case RunState.SUCCEEDED:
      return exitCodes.ok
    case RunState.REQUIRES_ACTION:
      return exitCodes.requiresAction
    case RunState.CANCELLING:
    case RunState.CANCELLED:
    case RunState.EXPIRED:
      return exitCodes.ended
    case RunState.FAILED:
      return run.reason === "policy_denied" || run.reason === "moderation_unavailable"
        ? exitCodes.denied
        : exitCodes.failed
    default:
      return exitCodes.error
  }
}
