import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import { ActorKind, type Member, MemberSchema } from "../../gen/runwarden/gateway/v1/member_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import type { MemberRow, StoredRole } from "./member-store.ts"

const roles: Readonly<Record<StoredRole, Role>> = {
  viewer: Role.VIEWER,
  member: Role.MEMBER,
  approver: Role.APPROVER,
  admin: Role.ADMIN,
}

/** The role of the contract for a stored one. */
export function toRole(stored: StoredRole): Role {
  return roles[stored]
}

/** The role to store. Throws INVALID_REQUEST for one that no member can have. */
export function fromRole(role: Role): StoredRole {
  switch (role) {
    case Role.VIEWER:
      return "viewer"
    case Role.MEMBER:
      return "member"
    case Role.APPROVER:
      return "approver"
    case Role.ADMIN:
      return "admin"
    default:
      throw new RunwardenError("INVALID_REQUEST", { field: "role" })
  }
}

/** The kind to store. Throws INVALID_REQUEST for an unknown one. */
export function fromActorKind(kind: ActorKind): MemberRow["kind"] {
  switch (kind) {
    case ActorKind.USER:
      return "user"
    case ActorKind.SERVICE:
      return "service"
    default:
      throw new RunwardenError("INVALID_REQUEST", { field: "kind" })
  }
}

/** A member as the contract shows it. */
export function toMember(workspaceId: string, row: MemberRow): Member {
  return create(MemberSchema, {
    workspaceId,
    actorId: row.actorId,
    displayName: row.displayName,
    kind: row.kind === "user" ? ActorKind.USER : ActorKind.SERVICE,
    role: toRole(row.role),
    createTime: timestampFromDate(row.createTime),
    updateTime: timestampFromDate(row.updateTime),
    etag: row.revision,
  })
}
