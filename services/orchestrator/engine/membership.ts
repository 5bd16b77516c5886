/**
 * Whether the requester of a run may still act: asked before a run that waited, or that another
 * owner left, goes on, and from time to time while it does.
 *
 * 1. An answer counts for `membershipMs`; the start of a run at the replica that stored it is one,
 *    since the gateway has just checked the member.
 * 2. Whoever cannot be asked about may do nothing.
 */
import type { Client } from "@connectrpc/connect"
import type { MembershipService } from "../../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { actingAs, serviceSubject } from "../../../mesh/identity.ts"
import type { Change } from "../change/change.ts"
import type { ExecutorConfig } from "../config.ts"
import type { RunRecord } from "../run/snapshot.ts"
import type { Scope } from "../scope.ts"

export interface MembershipDeps {
  readonly membership: Client<typeof MembershipService>
  readonly config: Pick<ExecutorConfig, "moderateTimeoutMs" | "membershipMs">
}

/** What is known of a requester; `unavailable` where nobody could be asked. */
export type Standing =
  | { readonly kind: "member"; readonly role: Role }
  | { readonly kind: "revoked" }
  | { readonly kind: "unavailable" }

/** One run's knowledge of its requester. */
export interface Requester {
  /** Whether somebody has to be asked before another call is admitted. */
  isStale(): boolean
  ask(run: RunRecord, scope: Scope): Promise<Standing>
}

export function createRequester(
  { membership, config }: MembershipDeps,
  isKnown: boolean,
): Requester {
  let knownAt = isKnown ? performance.now() : Number.NEGATIVE_INFINITY
  return {
    isStale: () => performance.now() - knownAt > config.membershipMs,
    async ask({ workspaceId, requesterId: actorId }, scope) {
      const askedAt = performance.now()
      const subject = serviceSubject("orchestrator", workspaceId)
      const options = actingAs(subject, { timeoutMs: config.moderateTimeoutMs })
      try {
        const asking = membership.checkMembership({ workspaceId, actorId }, options)
        const { member, role } = await scope.race(asking)
        if (member !== true || !(role >= Role.MEMBER)) return { kind: "revoked" }
        knownAt = askedAt
        return { kind: "member", role }
      } catch {
        scope.throwIfEnded()
        return { kind: "unavailable" } // (2)
      }
    },
  }
}

/**
 * Has a change go on as the run's requester, who may have to be asked about first: a run that waited
 * resumes. Where the requester is no member any more, the change ends the run.
 */
export async function goOnAsRequester(
  requester: Requester,
  change: Change,
  lost: Scope,
): Promise<Standing["kind"]> {
  const { run, calls } = change.before
  const isWaiting = run.state === "requires_action"
  if (run.state === "queued") change.moveRun({ kind: "claim" })
  if (isWaiting || requester.isStale()) {
    const standing = await requester.ask(run, lost)
    switch (standing.kind) {
      case "unavailable":
        return "unavailable"
      case "revoked":
        if (calls[run.stepIndex]?.state === "ready") {
          change.moveCall(run.stepIndex, "revoke", { reason: "membership_revoked" })
        }
        change.moveRun({ kind: "fail", reason: "membership_revoked" })
        return "revoked"
      case "member":
        change.setRun({ requesterRole: standing.role })
    }
  }
  if (isWaiting) change.moveRun({ kind: "resume" })
  return "member"
}
