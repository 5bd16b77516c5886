/** What a run may use up, and whether one more call fits. No I/O, no clock. */

/** What calls use up, as their providers report it. */
export interface CallUsage {
  readonly inputTokens: number
  readonly outputTokens: number
  readonly costMicros: number
}

/** The most that a call uses up, where its tool declares it. */
export interface MaxUsage {
  readonly tokens: number
  readonly costMicros: number
}

/** Whole numbers; what is undefined has no limit. */
export interface RunBudget {
  /** Calls that may be admitted. */
  readonly maxCalls?: number
  /** How long after its start a call may be admitted. */
  readonly maxWallMs?: number
  /** How many tokens may be used up when a call is admitted. */
  readonly maxTokens?: number
  /** How much may be spent when a call is admitted. */
  readonly maxCostMicros?: number
  /** Steps that may be begun. */
  readonly maxSteps?: number
}

export interface RunUse {
  readonly steps: number
  readonly calls: number
  readonly wallMs: number
  readonly tokens: number
  readonly costMicros: number
}

const meters = [
  { budget: "run_tool_calls", limit: "maxCalls", use: "calls" },
  { budget: "run_wall_time", limit: "maxWallMs", use: "wallMs" },
  { budget: "run_tokens", limit: "maxTokens", use: "tokens" },
  { budget: "run_cost_micros", limit: "maxCostMicros", use: "costMicros" },
  { budget: "run_steps", limit: "maxSteps", use: "steps" },
] as const

export type BudgetName =
  | (typeof meters)[number]["budget"]
  | "workspace_daily_tool_calls"
  | "workspace_daily_tokens"
  | "workspace_daily_cost_micros"
  | "run_events"
  | "run_payload_bytes"

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

/**
 * The first budget of a run that has no room for one more call; undefined where it fits. Where it is
 * not known what a call uses up at most, it fits where anything is left.
 */
export function exhaustionOf(
  budget: RunBudget,
  used: RunUse,
  wanted?: MaxUsage,
): Exhaustion | undefined {
  const full = readMeters(budget, used).find((meter) => isFull(meter, wanted))
  return full === undefined ? undefined : { ...full, resetTime: undefined }
}

/** Whether one more call has no room. */
export function isFull({ budget, used, limit }: Meter, wanted?: MaxUsage): boolean {
  return used + amountOf(budget, wanted) > limit
}

/** What a call takes of a budget at most, or at least, where the most is not known. */
function amountOf(budget: BudgetName, wanted: MaxUsage | undefined): number {
  switch (budget) {
    case "run_tokens":
    case "workspace_daily_tokens":
      return Math.max(1, wanted?.tokens ?? 1)
    case "run_cost_micros":
    case "workspace_daily_cost_micros":
      return Math.max(1, wanted?.costMicros ?? 1)
    default:
      return 1
  }
}

/** What a workspace has used up on a day, and of how much; 0 for any amount. */
export interface DayUse {
  readonly calls: number
  readonly tokens: number
  readonly costMicros: number
  readonly maxCalls: number
  readonly maxTokens: number
  readonly maxCostMicros: number
}

/** The budgets of a workspace's day. */
export function dayMeters(day: DayUse): readonly Meter[] {
  const all: readonly Meter[] = [
    { budget: "workspace_daily_tool_calls", used: day.calls, limit: day.maxCalls },
    { budget: "workspace_daily_tokens", used: day.tokens, limit: day.maxTokens },
    { budget: "workspace_daily_cost_micros", used: day.costMicros, limit: day.maxCostMicros },
  ]
  return all.filter(({ limit }) => limit > 0)
}

/** The budgets of which four fifths are used up now and were not `before`. */
export function warningsOf(budget: RunBudget, before: RunUse, now: RunUse): readonly Meter[] {
  const earlier = readMeters(budget, before)
  return readMeters(budget, now).filter(
    ({ used, limit }, index) =>
      used * 5 >= limit * 4 && (earlier[index]?.used ?? 0) * 5 < limit * 4,
  )
}

function readMeters(budget: RunBudget, used: RunUse): readonly Meter[] {
  return meters.flatMap(({ budget: name, limit, use }) => {
    const most = budget[limit]
    return most === undefined ? [] : [{ budget: name, used: used[use], limit: most }]
  })
}
