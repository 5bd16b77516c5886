import { create } from "@bufbuild/protobuf"
import { durationMs, timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { Client, ServiceImpl } from "@connectrpc/connect"
import type { MembershipService } from "../../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import {
  type Delegation,
  DelegationSchema,
} from "../../../gen/runwarden/orchestrator/v1/delegation_pb.ts"
import {
  CreateDelegationResponseSchema,
  DelegationService,
  RevokeDelegationResponseSchema,
} from "../../../gen/runwarden/orchestrator/v1/delegation_service_pb.ts"
import type { Database, Tx } from "../../../mesh/database.ts"
import { notFound, RunwardenError } from "../../../mesh/errors.ts"
import { actingAs, callerOf, serviceSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { requireRole } from "../../../mesh/interceptors.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import { answerOnce } from "../../../mesh/request-id.ts"
import { refuseNul } from "../text.ts"
import {
  type DelegationRecord,
  findDelegation,
  insertDelegation,
  listDelegations,
  revokeDelegation,
} from "./delegation-store.ts"

export interface DelegationHandlerDeps {
  readonly database: Database
  readonly membership: Client<typeof MembershipService>
}

const sizes = { default: 50, max: 200 }
const membershipTimeoutMs = 5_000

/** DelegationService. */
export function delegationHandlers({ database, membership }: DelegationHandlerDeps) {
  return {
    async createDelegation(request, context) {
      const { workspaceId, delegateId, comment, duration } = request
      const { signal } = context
      refuseNul({ comment })
      const delegatorId = callerOf(context).actorId
      if (delegateId === delegatorId) {
        const violations = [{ field: "delegate_id", description: "must be somebody else" }]
        throw new RunwardenError("INVALID_REQUEST", { field: "delegate_id" }, { violations })
      }
      const { member, role } = await membership.checkMembership(
        { workspaceId, actorId: delegateId },
        actingAs(serviceSubject("orchestrator", workspaceId), {
          signal,
          timeoutMs: membershipTimeoutMs,
        }),
      )
      const work = async (tx: Tx) => {
        // In here, so that a request which was answered before gets that answer instead.
        if (member !== true || !(role >= Role.MEMBER)) throw notFound("member", delegateId)
        const delegation = await insertDelegation(tx, {
          ...{ workspaceId, delegatorId, delegateId, comment },
          delegationId: newId(),
          durationMs: duration === undefined ? 0 : durationMs(duration),
        })
        return create(CreateDelegationResponseSchema, { delegation: toDelegation(delegation) })
      }
      const { createDelegation } = DelegationService.method
      return answerOnce(database, createDelegation, request, work, { signal })
    },

    async listDelegations(request, { signal }) {
      const { workspaceId, activeOnly: isActiveOnly, actorId } = request
      const filters = { list: "delegations", workspaceId, isActiveOnly, actorId }
      const { limit, after } = readPage(request, filters, sizes)
      const rows = await database.tenant(
        workspaceId,
        (tx) => {
          const page = { limit: limit + 1, after: after?.[0] }
          return listDelegations(tx, workspaceId, { isActiveOnly, actorId }, page)
        },
        { signal, name: "listDelegations" },
      )
      const page = rows.slice(0, limit)
      const last = page.at(-1)?.delegationId ?? ""
      return {
        delegations: page.map(toDelegation),
        nextPageToken: rows.length > limit ? nextPage(filters, [last]) : "",
      }
    },

    async revokeDelegation(request, context) {
      const { workspaceId, delegationId } = request
      const { actorId, role } = callerOf(context)
      const work = async (tx: Tx) => {
        const found = await findDelegation(tx, workspaceId, delegationId)
        if (found === undefined) throw notFound("delegation", delegationId)
        if (found.delegatorId !== actorId) requireRole(role, Role.ADMIN)
        const revoked = await revokeDelegation(tx, workspaceId, delegationId, actorId)
        return create(RevokeDelegationResponseSchema, { delegation: toDelegation(revoked) })
      }
      const { revokeDelegation: method } = DelegationService.method
      return answerOnce(database, method, request, work, { signal: context.signal })
    },
  } satisfies ServiceImpl<typeof DelegationService>
}

function toDelegation(record: DelegationRecord): Delegation {
  const { workspaceId, delegationId, delegatorId, delegateId, comment, revokerId } = record
  return create(DelegationSchema, {
    ...{ workspaceId, delegationId, delegatorId, delegateId, comment, revokerId },
    expireTime: timestampFromDate(record.expireTime),
    createTime: timestampFromDate(record.createTime),
    active: record.isActive,
    ...(record.revokeTime === null ? {} : { revokeTime: timestampFromDate(record.revokeTime) }),
  })
}
