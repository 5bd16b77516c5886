/**
 * How much a peer that fails may be asked again, so that retries never become the load that keeps it
 * down. Pure but for the clock that is handed in.
 *
 * Each peer has 10 tokens. A failure takes one, a success gives a tenth back, and a call is repeated
 * only while more than half are there: in the long run there is one repeat for every ten successes.
 * First attempts are never held back, since work that is due is no amplification.
 *
 * A peer that has nothing left would stay so long after it is well again where little is called. So
 * one repeat in two seconds is let through as a probe, and the success that follows it fills the
 * budget again.
 */
export interface RetryBudgets {
  /** Notes that a call of the peer succeeded. */
  succeeded(peer: string): void
  /** Notes that the peer did not answer, or not in a way that could be used. */
  failed(peer: string): void
  /** Whether a call of the peer may be repeated now. */
  mayRetry(peer: string): boolean
}

interface Budget {
  tokens: number
  probedAt: number
  isProbing: boolean
}

const maxTokens = 10
const tokenRatio = 0.1
const probeMs = 2_000

export function createRetryBudgets(now: () => number = () => performance.now()): RetryBudgets {
  const budgets = new Map<string, Budget>()

  function budgetOf(peer: string): Budget {
    let budget = budgets.get(peer)
    if (budget === undefined) {
      budget = { tokens: maxTokens, probedAt: Number.NEGATIVE_INFINITY, isProbing: false }
      budgets.set(peer, budget)
    }
    return budget
  }

  return {
    succeeded(peer) {
      const budget = budgets.get(peer)
      if (budget === undefined) return
      budget.tokens = budget.isProbing ? maxTokens : Math.min(maxTokens, budget.tokens + tokenRatio)
      budget.isProbing = false
      if (budget.tokens === maxTokens) budgets.delete(peer)
    },
    failed(peer) {
      const budget = budgetOf(peer)
      budget.tokens = Math.max(0, budget.tokens - 1)
      budget.isProbing = false
    },
    mayRetry(peer) {
      const budget = budgets.get(peer)
      if (budget === undefined || budget.tokens > maxTokens / 2) return true
      if (now() - budget.probedAt < probeMs) return false
      budget.probedAt = now()
      budget.isProbing = true
      return true
    },
  }
}
