/**
 * Whether an approval may still be used: whoever is behind it is asked about at that moment.
 *
 * 1. One of them who lost the role, the membership or the delegation takes the worth out of the whole
 *    approval.
 * 2. Whoever cannot be asked about backs nothing.
 */
import { actingAs, serviceSubject } from "../../../mesh/identity.ts"
import type { MembershipDeps } from "../engine/membership.ts"
import type { ApprovalRecord } from "../run/snapshot.ts"
import type { Scope } from "../scope.ts"
import { isGlassBroken, standingsOf } from "./approval-answer.ts"

export type Backing = "stands" | "fallen" | "unavailable"

/** Asks the gateway, never a cache, about everybody at once. Never throws. */
export async function backingOf(
  { membership, config }: MembershipDeps,
  approval: ApprovalRecord,
  scope: Scope,
): Promise<Backing> {
  const { workspaceId } = approval
  const subject = serviceSubject("orchestrator", workspaceId)
  const options = actingAs(subject, { timeoutMs: config.moderateTimeoutMs })
  const standings = standingsOf(approval)
  const { answers } = approval
  const isInForce = isGlassBroken(answers) || answers.every((answer) => answer.isInForce)
  if (standings.length === 0 || !isInForce) return "fallen"
  const found = await Promise.all(
    standings.map(async ({ actorId, leastRole }): Promise<Backing> => {
      try {
        const asking = membership.checkMembership({ workspaceId, actorId }, options)
        const { member, role } = await scope.race(asking)
        return member === true && role >= leastRole ? "stands" : "fallen"
      } catch {
        return "unavailable"
      }
    }),
  )
  if (found.includes("fallen")) return "fallen"
  return found.includes("unavailable") ? "unavailable" : "stands"
}
