/**
 * The policy of the runtime: what a verdict, a risk class and an effect lead to. No I/O.
 *
 * 1. Only `allowed` and `flagged` can lead anywhere but to `deny`; everything else is a no.
 * 2. A HIGH or undeclared risk is always asked about.
 * 3. A flagged call is asked about unless it only reads.
 */
export type Verdict = "allowed" | "flagged" | "blocked"
export type RiskClass = "low" | "medium" | "high"
export type Effect = "read" | "keyed" | "unsafe"
export type Action = "execute" | "ask" | "deny"

/** What to do about a call. */
export function actionFor(call: {
  readonly verdict: Verdict
  readonly riskClass: RiskClass
  readonly effect: Effect
}): Action {
  if (call.verdict !== "allowed" && call.verdict !== "flagged") return "deny"
  if (call.riskClass !== "low" && call.riskClass !== "medium") return "ask"
  if (call.verdict === "flagged" && call.effect !== "read") return "ask"
  return "execute"
}

const gravity: Readonly<Record<Verdict, number>> = { allowed: 0, flagged: 1, blocked: 2 }

/** The graver of two verdicts, where the first may not be there yet. */
export function graver(one: Verdict | undefined, other: Verdict): Verdict {
  return one !== undefined && gravity[one] >= gravity[other] ? one : other
}
