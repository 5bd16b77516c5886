import { createHash } from "node:crypto"
import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { ServiceImpl } from "@connectrpc/connect"
import { type Workspace, WorkspaceSchema } from "../../gen/runwarden/gateway/v1/workspace_pb.ts"
import {
  CreateWorkspaceResponseSchema,
  WorkspaceService,
} from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { mintKey } from "./api-key.ts"
import { toApiKey, withoutSecret } from "./api-key-handlers.ts"
import { insertApiKey } from "./api-key-store.ts"
import { toMember } from "./member.ts"
import { findMember, getMember, insertMember } from "./member-store.ts"
import { uuidCursor } from "./uuid-cursor.ts"
import { getWorkspace, insertWorkspace, type WorkspaceRow } from "./workspace-store.ts"

/** The handlers of WorkspaceService. */
export function workspaceHandlers(deps: {
  readonly database: Database
}): ServiceImpl<typeof WorkspaceService> {
  const { database } = deps
  return {
    async createWorkspace(request, { signal }) {
      const workspaceId = request.workspaceId || idFrom(request.requestId)
      const { secret, prefix, hash } = mintKey()
      const [actorId, keyId] = [newId(), newId()]
      const displayName = request.adminDisplayName
      const work = async (tx: Tx) => {
        const workspace = await insertWorkspace(tx, workspaceId, request.displayName)
        if (workspace === undefined) throw workspaceExists(workspaceId)
        const admin = { actorId, displayName, kind: "user", role: "admin" } as const
        await insertMember(tx, workspaceId, admin)
        const key = {
          keyId,
          actorId,
          displayName: "First key",
          prefix,
          hash,
          expireTime: undefined,
        }
        return create(CreateWorkspaceResponseSchema, {
          workspace: toWorkspace(workspace),
          admin: toMember(workspaceId, await getMember(tx, workspaceId, actorId)),
          apiKey: toApiKey(workspaceId, await insertApiKey(tx, workspaceId, key)),
          secret,
        })
      }
      const method = WorkspaceService.method.createWorkspace
      const asked = { ...request, workspaceId }
      return await answerOnce(database, method, asked, work, { signal, keep: withoutSecret })
    },

    async getWorkspace({ workspaceId }, { signal }) {
      const row = await database.tenant(workspaceId, (tx) => getWorkspace(tx, workspaceId), {
        signal,
      })
      return { workspace: toWorkspace(row) }
    },

    async listWorkspaces(request, context) {
      const { workspaceId, actorId, kind } = callerOf(context)
      uuidCursor(readPage(request, { list: "workspaces", actorId }).after)
      if (kind !== "member") return { memberships: [] }
      const { signal } = context
      const work = async (tx: Tx) => {
        const member = await findMember(tx, workspaceId, actorId)
        if (member === undefined) return []
        const workspace = await getWorkspace(tx, workspaceId)
        return [{ workspace: toWorkspace(workspace), member: toMember(workspaceId, member) }]
      }
      return { memberships: await database.tenant(workspaceId, work, { signal }) }
    },
  }
}

/** A workspace as the contract shows it. */
export function toWorkspace(row: WorkspaceRow): Workspace {
  return create(WorkspaceSchema, {
    workspaceId: row.workspaceId,
    displayName: row.displayName,
    createTime: timestampFromDate(row.createTime),
    updateTime: timestampFromDate(row.updateTime),
  })
}

function workspaceExists(workspaceId: string): RunwardenError {
  return new RunwardenError("ALREADY_EXISTS", { resource: "workspace", id: workspaceId })
}

/** The id of a workspace whose creator chose none: a repeat of the request must find it again. */
function idFrom(requestId: string): string {
  const digest = createHash("sha256").update(`workspace ${requestId.toLowerCase()}`).digest()
  digest[6] = (digest.readUInt8(6) & 0x0f) | 0x80
  digest[8] = (digest.readUInt8(8) & 0x3f) | 0x80
  const hex = digest.toString("hex", 0, 16)
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5")
}
