/** What the tests of approvals share: a workspace with rules, delegations and many persons. */
import type { MessageInitShape } from "@bufbuild/protobuf"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import type { ApprovalRuleSchema } from "../../../gen/runwarden/orchestrator/v1/approval_rule_pb.ts"
import { Answer } from "../../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { until } from "../../../mesh/testing.ts"
import { inWorkspace, type Orchestrator } from "../orchestrator-harness.ts"

export type RuleInit = MessageInitShape<typeof ApprovalRuleSchema>

/** A question, as an answer has to name it. */
export interface Named {
  readonly approvalId: string
  readonly digest: string
}

export interface Person {
  readonly actorId: string
  readonly options: ReturnType<typeof actingAs>
}

/** A workspace in which approvals are answered by whoever a test wants. */
export function inRuledWorkspace(orchestrator: Orchestrator, workspaceId: string = newId()) {
  const { rules, delegations, approvals } = orchestrator
  const me = inWorkspace(orchestrator, workspaceId)
  const person = (role: Role, actorId: string = newId()): Person => ({
    actorId,
    options: actingAs(memberSubject(workspaceId, actorId, role), { timeoutMs: 20_000 }),
  })
  const admin = person(Role.ADMIN)
  const named = ({ approvalId, digest }: Named) => ({
    ...{ workspaceId, approvalId, digest },
    requestId: newId(),
  })
  return {
    ...me,
    person,
    admin,
    async useRules(written: readonly RuleInit[]) {
      const request = { workspaceId, requestId: newId(), rules: [...written] }
      const { version } = await rules.createApprovalRuleVersion(request, admin.options)
      const ruleVersion = version?.ruleVersion ?? ""
      const activation = { workspaceId, requestId: newId(), ruleVersion }
      await rules.activateApprovalRuleVersion(activation, admin.options)
      return ruleVersion
    },
    async say(approval: Named, by: Person, answer: Answer = Answer.APPROVE, comment = "") {
      return approvals.decide({ ...named(approval), answer, comment }, by.options)
    },
    async sayFor(approval: Named, by: Person, delegationId: string, answer = Answer.APPROVE) {
      const request = { ...named(approval), answer, delegationId }
      return approvals.decideAsDelegate(request, by.options)
    },
    async breakGlass(approval: Named, by: Person, reason = "the site is down, INC-1") {
      return approvals.breakGlass({ ...named(approval), reason }, by.options)
    },
    async delegate(from: Person, to: Person, seconds = 3_600): Promise<string> {
      const duration = { seconds: BigInt(seconds) }
      const request = { workspaceId, requestId: newId(), delegateId: to.actorId, duration }
      const { delegation } = await delegations.createDelegation(request, from.options)
      return delegation?.delegationId ?? ""
    },
    async revoke(delegationId: string) {
      const request = { workspaceId, requestId: newId(), delegationId }
      await delegations.revokeDelegation(request, admin.options)
    },
    async read(approvalId: string) {
      const { approval } = await approvals.getApproval({ workspaceId, approvalId }, me.requester)
      if (approval === undefined) throw new Error("no approval")
      return approval
    },
    /** The question that took the place of another. */
    askedAnew(runId: string, before: Named) {
      return until(async () => {
        const found = await me.pendingApproval(runId)
        return found.approvalId !== before.approvalId && found
      })
    },
  }
}

export function caught(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  )
}
