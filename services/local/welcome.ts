/**
 * What a newcomer is shown once the mesh serves: the demo workspace and its keys, the documents, the
 * runs, and what to try next.
 */
import path from "node:path"
import type { DescService } from "@bufbuild/protobuf"
import type { Client } from "@connectrpc/connect"
import { v5 } from "uuid"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { IngestionService } from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { createMeshClient } from "../../mesh/client.ts"
import { createGatewayTransport } from "../../mesh/client-transport.ts"
import {
  type LocalMember,
  type LocalState,
  readLocalState,
  writeLocalState,
} from "../../mesh/local-state.ts"
import type { Gateway } from "../gateway/service.ts"
import { type DemoDeps, ingestDocuments, performRuns } from "./demo.ts"

export interface WelcomeOptions {
  readonly checkout: string
  readonly dataFolder: string
  readonly print: (line: string) => void
}

/** The demo workspace has the same ids everywhere, so that what is written about it stays true. */
const workspaceId = "0199a000-0000-7000-8000-000000000001"
const demoMembers = [
  { role: "admin", displayName: "Ada (admin)" },
  { role: "approver", displayName: "Avery (approver)" },
  { role: "member", displayName: "Mika (member)" },
  { role: "viewer", displayName: "Vera (viewer)" },
] as const
const roles = {
  admin: Role.ADMIN,
  approver: Role.APPROVER,
  member: Role.MEMBER,
  viewer: Role.VIEWER,
} as const

/** Makes or finds the demo workspace, and shows it. */
export async function welcome(
  gateway: Gateway,
  options: WelcomeOptions,
  signal: AbortSignal,
): Promise<void> {
  const before = readLocalState(options.dataFolder)
  const state = await seed(gateway, gateway.url, before)
  writeLocalState(options.dataFolder, state)
  await show(options, state, before !== undefined, signal)
}

async function seed(
  gateway: Gateway,
  url: string,
  before: LocalState | undefined,
): Promise<LocalState> {
  const members = demoMembers.map(({ role, displayName }) => {
    const actorId = v5(role, workspaceId)
    const known = before?.members.find((member) => member.actorId === actorId)
    return {
      actorId,
      displayName,
      role: roles[role],
      ...(known === undefined ? {} : { apiKeySecret: known.apiKey }),
    }
  })
  const { secrets } = await gateway.ensureWorkspace({
    workspaceId,
    displayName: "Demo",
    members,
  })
  return {
    url,
    workspaceId,
    members: demoMembers.map(({ role, displayName }): LocalMember => {
      const actorId = v5(role, workspaceId)
      const apiKey = secrets.get(actorId)
      if (apiKey === undefined) throw new Error(`no key for the ${role}`)
      return { actorId, displayName, role, apiKey }
    }),
  }
}

async function show(
  options: WelcomeOptions,
  state: LocalState,
  isKnown: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { print, checkout } = options
  print("API keys of the demo workspace:")
  for (const { role, apiKey } of state.members) print(`  ${role.padEnd(9)} ${apiKey}`)
  print(`  workspace ${state.workspaceId}`)
  const deps = demoDeps(state, print, signal)
  try {
    const count = await ingestDocuments(deps, path.join(checkout, "docs"))
    print(`\n${count} documents of the project are in the index.`)
    if (isKnown) await tellState(deps)
    else await performRuns(deps).then((approvalId) => print(confirmHint(approvalId)))
    print(whatNext(state))
  } catch (error) {
    if (signal.aborted) return
    throw error
  }
}

function demoDeps(state: LocalState, print: (line: string) => void, signal: AbortSignal): DemoDeps {
  const apiKey = state.members.find((member) => member.role === "member")?.apiKey ?? ""
  const transport = createGatewayTransport({ url: state.url, apiKey })
  const connect = <S extends DescService>(service: S): Client<S> =>
    createMeshClient(service, transport)
  return {
    workspaceId: state.workspaceId,
    runs: connect(RunService),
    toolCalls: connect(ToolCallService),
    approvals: connect(ApprovalService),
    ingestion: connect(IngestionService),
    print,
    signal,
  }
}

async function tellState(deps: DemoDeps): Promise<void> {
  const { workspaceId, print, signal } = deps
  const { runs } = await deps.runs.listRuns({ workspaceId, pageSize: 200 }, { signal })
  const { approvals } = await deps.approvals.listApprovals({ workspaceId }, { signal })
  print(`Found ${runs.length}${runs.length === 200 ? " or more" : ""} runs of earlier sessions.`)
  const [waiting] = approvals
  if (waiting !== undefined) print(confirmHint(waiting.approvalId))
}

function confirmHint(approvalId: string): string {
  return `
A call waits for a person. Confirm it, as somebody other than the one who asked, in another terminal:

  npx runwarden --as approver approval confirm ${approvalId}
`
}

function whatNext(state: LocalState): string {
  return `What to try next:

  npx runwarden run list
  npx runwarden search "moderation cannot be had"
  npx runwarden metrics
  npx runwarden --help

  curl -H "Authorization: Bearer $KEY" "${state.url}/ai/runs?workspace_id=${state.workspaceId}"
`
}
