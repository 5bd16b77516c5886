import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  AddMemberResponseSchema,
  MembershipService,
  RemoveMemberResponseSchema,
  UpdateMemberResponseSchema,
} from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { revokeKeysOf } from "./api-key-store.ts"
import type { Authenticator } from "./authenticator.ts"
import { fromActorKind, fromRole, toMember, toRole } from "./member.ts"
import {
  countOtherAdmins,
  deleteMember,
  findMember,
  findRole,
  getMember,
  insertMember,
  listMembers,
  lockMembers,
  type MemberRow,
  updateMember,
} from "./member-store.ts"
import { uuidCursor } from "./uuid-cursor.ts"

const pageSizes = { default: 50, max: 200 }

/** The handlers of MembershipService. */
export function membershipHandlers(deps: {
  readonly database: Database
  readonly authenticator: Authenticator
}): ServiceImpl<typeof MembershipService> {
  const { database, authenticator } = deps
  return {
    addMember(request, { signal }) {
      const { workspaceId } = request
      const member = {
        actorId: newId(),
        displayName: request.displayName,
        kind: fromActorKind(request.kind),
        role: fromRole(request.role),
      }
      const { addMember } = MembershipService.method
      const work = async (tx: Tx) => {
        await insertMember(tx, workspaceId, member)
        const row = await getMember(tx, workspaceId, member.actorId)
        return create(AddMemberResponseSchema, { member: toMember(workspaceId, row) })
      }
      return answerOnce(database, addMember, request, work, { signal })
    },

    async getMember({ workspaceId, actorId }, { signal }) {
      const row = await database.tenant(workspaceId, (tx) => findMember(tx, workspaceId, actorId), {
        signal,
      })
      if (row === undefined) throw notFound("member", actorId)
      return { member: toMember(workspaceId, row) }
    },

    async listMembers(request, { signal }) {
      const { workspaceId } = request
      const filters = { list: "members", workspaceId }
      const { limit, after } = readPage(request, filters, pageSizes)
      const rows = await database.tenant(
        workspaceId,
        (tx) => listMembers(tx, workspaceId, uuidCursor(after), limit + 1),
        { signal },
      )
      const page = rows.slice(0, limit)
      const last = rows.length > limit ? page.at(-1) : undefined
      return {
        members: page.map((row) => toMember(workspaceId, row)),
        nextPageToken: last === undefined ? "" : nextPage(filters, [last.actorId]),
      }
    },

    async updateMember(request, { signal }) {
      const { workspaceId, actorId, etag } = request
      const role = request.role === undefined ? undefined : fromRole(request.role)
      const work = async (tx: Tx) => {
        const current = await lockMember(tx, workspaceId, actorId, etag)
        if (role !== undefined && role !== "admin")
          await requireOtherAdmin(tx, workspaceId, current)
        await updateMember(tx, workspaceId, actorId, { displayName: request.displayName, role })
        const row = await getMember(tx, workspaceId, actorId)
        return create(UpdateMemberResponseSchema, { member: toMember(workspaceId, row) })
      }
      const method = MembershipService.method.updateMember
      // Whatever comes of it: a change may be made although its answer is lost.
      return await answerOnce(database, method, request, work, { signal }).finally(() =>
        authenticator.forget(workspaceId),
      )
    },

    async removeMember(request, { signal }) {
      const { workspaceId, actorId, etag } = request
      const work = async (tx: Tx) => {
        const current = await lockMember(tx, workspaceId, actorId, etag)
        await requireOtherAdmin(tx, workspaceId, current)
        // The membership goes first: it waits for a key that is being made for it right now, so
        // that the keys found next are all there will ever be.
        await deleteMember(tx, workspaceId, actorId)
        const revokedKeys = await revokeKeysOf(tx, workspaceId, actorId)
        return create(RemoveMemberResponseSchema, { revokedKeys })
      }
      const method = MembershipService.method.removeMember
      // Whatever comes of it: a change may be made although its answer is lost.
      return await answerOnce(database, method, request, work, { signal }).finally(() =>
        authenticator.forget(workspaceId),
      )
    },

    async checkMembership({ workspaceId, actorId }, { signal }) {
      const role = await database.tenant(workspaceId, (tx) => findRole(tx, workspaceId, actorId), {
        signal,
        isOneRead: true,
      })
      return {
        member: role !== undefined,
        role: role === undefined ? Role.UNSPECIFIED : toRole(role),
      }
    },
  }
}

async function lockMember(
  tx: Tx,
  workspaceId: string,
  actorId: string,
  etag: string,
): Promise<MemberRow> {
  await lockMembers(tx, workspaceId)
  const current = await findMember(tx, workspaceId, actorId)
  if (current === undefined) throw notFound("member", actorId)
  if (etag !== "" && etag !== current.revision) {
    throw new RunwardenError("ETAG_MISMATCH", { resource: "member", id: actorId })
  }
  return current
}

/** Throws LAST_ADMIN where this member is the only admin. */
async function requireOtherAdmin(tx: Tx, workspaceId: string, current: MemberRow): Promise<void> {
  if (current.role !== "admin") return
  if ((await countOtherAdmins(tx, workspaceId, current.actorId)) > 0) return
  throw new RunwardenError("LAST_ADMIN", { workspace_id: workspaceId })
}
