/** A workspace that a scenario makes for itself, and its people. */
import { ActorKind } from "../../gen/runwarden/gateway/v1/member_pb.ts"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { WorkspaceService } from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { createMeshClient } from "../../mesh/client.ts"
import { createGatewayTransport } from "../../mesh/client-transport.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import type { Cluster } from "./cluster.ts"
import type { History } from "./history.ts"

export interface TestWorkspace {
  readonly workspaceId: string
  readonly adminId: string
  readonly memberId: string
  readonly approverId: string
}

const callTimeoutMs = 4_000

export async function addWorkspace(cluster: Cluster, history: History): Promise<TestWorkspace> {
  const operator = createMeshClient(
    WorkspaceService,
    createGatewayTransport({ url: cluster.edgeUrl, apiKey: cluster.operatorKey }),
  )
  const { workspace, admin, secret } = await operator.createWorkspace({
    requestId: newId(),
    displayName: "Adversity",
    adminDisplayName: "Ada",
  })
  const workspaceId = workspace?.workspaceId ?? ""
  const members = createMeshClient(
    MembershipService,
    createGatewayTransport({ url: cluster.edgeUrl, apiKey: secret }),
  )
  const add = async (displayName: string, role: Role) => {
    const kind = ActorKind.USER
    const request = { workspaceId, requestId: newId(), displayName, role, kind }
    const { member } = await members.addMember(request)
    return member?.actorId ?? ""
  }
  const memberId = await add("Mel", Role.MEMBER)
  const approverId = await add("Abe", Role.APPROVER)
  const adminId = admin?.actorId ?? ""
  for (const [actorId, role] of [
    [adminId, "admin"],
    [memberId, "member"],
    [approverId, "approver"],
  ] as const) {
    history.note({ kind: "member_added", workspaceId, actorId, role })
  }
  return { workspaceId, adminId, memberId, approverId }
}

/** The options of a call that one of them makes. */
export function as({ workspaceId }: TestWorkspace, actorId: string, role: Role) {
  return actingAs(memberSubject(workspaceId, actorId, role), { timeoutMs: callTimeoutMs })
}
