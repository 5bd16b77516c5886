/** What a run may use up, and whether one more call fits. No I/O, no clock. */

export interface RunBudget {
  /** Calls that may be admitted; undefined for any number. */
  readonly maxCalls?: number
  /** How long after its start a call may be admitted; undefined for any time. */
  readonly maxWallMs?: number
}

export interface RunUse {
  readonly calls: number
  readonly wallMs: number
}

export type BudgetName = "run_tool_calls" | "run_wall_time" | "workspace_daily_tool_calls"

/** How far a budget is used. */
export interface Meter {
  readonly budget: BudgetName
  readonly used: number
  readonly limit: number
}

/** A budget that has no room for one more call. */
export interface Exhaustion extends Meter {
  /** When there is room again; undefined where there never is. */
  readonly resetTime: Date | undefined
}

/** The first budget of a run that has no room for one more call; undefined where it fits. */
export function exhaustionOf(
  { maxCalls, maxWallMs }: RunBudget,
  { calls, wallMs }: RunUse,
): Exhaustion | undefined {
  const resetTime = undefined
  if (maxCalls !== undefined && calls + 1 > maxCalls) {
    return { budget: "run_tool_calls", used: calls, limit: maxCalls, resetTime }
  }
  if (maxWallMs !== undefined && wallMs >= maxWallMs) {
    return { budget: "run_wall_time", used: wallMs, limit: maxWallMs, resetTime }
  }
  return undefined
}

/** The budgets of which four fifths are used up now and were not `before`. */
export function warningsOf(
  { maxCalls, maxWallMs }: RunBudget,
  before: RunUse,
  now: RunUse,
): readonly Meter[] {
  const meters: Meter[] = []
  if (maxCalls !== undefined && crosses(before.calls, now.calls, maxCalls)) {
    meters.push({ budget: "run_tool_calls", used: now.calls, limit: maxCalls })
  }
  if (maxWallMs !== undefined && crosses(before.wallMs, now.wallMs, maxWallMs)) {
    meters.push({ budget: "run_wall_time", used: now.wallMs, limit: maxWallMs })
  }
  return meters
}

function crosses(before: number, now: number, limit: number): boolean {
  return now * 5 >= limit * 4 && before * 5 < limit * 4
}
