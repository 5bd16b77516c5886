/** One of everything that a workspace can hold, made the way its members make it. */
import { toJson } from "@bufbuild/protobuf"
import { ApiKeyService } from "../gen/runwarden/gateway/v1/api_key_service_pb.ts"
import {
  ListMembersResponseSchema,
  MembershipService,
} from "../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { DecisionService } from "../gen/runwarden/moderation/v1/decision_service_pb.ts"
import {
  ListPolicyVersionsResponseSchema,
  PolicyService,
} from "../gen/runwarden/moderation/v1/policy_service_pb.ts"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalRuleService } from "../gen/runwarden/orchestrator/v1/approval_rule_service_pb.ts"
import {
  ApprovalService,
  ListApprovalsResponseSchema,
} from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import {
  DelegationService,
  ListDelegationsResponseSchema,
} from "../gen/runwarden/orchestrator/v1/delegation_service_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import {
  ListRunsResponseSchema,
  RunService,
} from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import {
  DocumentService,
  ListDocumentsResponseSchema,
} from "../gen/runwarden/projects/v1/document_service_pb.ts"
import {
  ListProjectsResponseSchema,
  ProjectService,
} from "../gen/runwarden/projects/v1/project_service_pb.ts"
import type { Citation } from "../gen/runwarden/retrieval/v1/citation_pb.ts"
import { IngestionService } from "../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { SearchService } from "../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { AlertService } from "../gen/runwarden/telemetry/v1/alert_service_pb.ts"
import { ProviderSchema, ProviderState } from "../gen/runwarden/tools/v1/provider_pb.ts"
import { ProviderService } from "../gen/runwarden/tools/v1/provider_service_pb.ts"
import {
  RegistryService,
  RegistryServiceListToolsResponseSchema,
} from "../gen/runwarden/tools/v1/registry_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { until } from "../mesh/testing.ts"
import type { TestMesh, TestWorkspace } from "./mesh.ts"

/** The ids by the names that fields have, and what goes with them. */
export interface Population {
  /** One that was used already. */
  readonly request_id: string
  readonly actor_id: string
  readonly key_id: string
  readonly decision_id: string
  readonly policy_version: string
  readonly rule_version: string
  /** Of `projects/project.create`, which the workspace has activated. */
  readonly tool_version: string
  readonly definition_digest: string
  /** Name of a provider that the workspace has added; nobody is there. */
  readonly provider: string
  readonly delegate_id: string
  readonly delegation_id: string
  readonly run_id: string
  readonly thread_id: string
  readonly tool_call_id: string
  readonly approval_id: string
  readonly digest: string
  readonly project_id: string
  readonly document_id: string
  readonly indexed_document_id: string
  readonly alert_id: string
  readonly citation: Citation
  /** What the workspace held when it was ready. */
  readonly snapshot: object
}

export async function populate(mesh: TestMesh, workspace: TestWorkspace): Promise<Population> {
  const { workspaceId, admin, member } = workspace
  const at = () => ({ workspaceId, requestId: newId() })
  const projects = mesh.client(ProjectService, admin)
  const requestId = newId()
  const { project } = await projects.createProject({ workspaceId, requestId, name: "Mine" })
  const projectId = given(project?.projectId)
  const { document } = await mesh.client(DocumentService, admin).createDocument({
    ...at(),
    projectId,
    title: "Note",
    mediaType: "text/plain",
    content: "A note.",
  })
  const indexedId = newId()
  await mesh.client(IngestionService, admin).ingestDocument({
    ...at(),
    documentId: indexedId,
    version: 1n,
    title: "Lighthouse",
    mediaType: "text/plain",
    content: "The lighthouse stands on a cliff.",
  })
  const citation = await until(async () => {
    const { passages } = await mesh.client(SearchService, admin).search({
      workspaceId,
      query: "lighthouse cliff",
      documentIds: [indexedId],
    })
    return passages[0]?.citation
  })
  const { member: extra } = await mesh.client(MembershipService, admin).addMember({
    ...at(),
    displayName: "Extra",
    role: Role.VIEWER,
    kind: 1,
  })
  const actorId = given(extra?.actorId)
  const { apiKey } = await mesh
    .client(ApiKeyService, admin)
    .createApiKey({ ...at(), actorId, displayName: "key" })
  const { policyVersion } = await mesh.client(PolicyService, admin).createPolicyVersion({
    ...at(),
    name: `own-${workspaceId.slice(-6)}`,
    rules: [
      {
        ruleId: "no-never",
        verdict: 3,
        category: "other",
        description: "Never.",
        matcher: { case: "words", value: { words: ["never-ever"] } },
      },
    ],
  })
  const rules = mesh.client(ApprovalRuleService, admin)
  const { version } = await rules.createApprovalRuleVersion({
    ...at(),
    rules: [{ ruleId: "any", delegationAllowed: true, breakGlassAllowed: true }],
  })
  const ruleVersion = given(version?.ruleVersion)
  await rules.activateApprovalRuleVersion({ ...at(), ruleVersion })
  const registry = mesh.client(RegistryService, admin)
  const { tool } = await registry.getTool({ workspaceId, name: "projects/project.create" })
  const toolVersion = given(tool?.definition?.version)
  const definitionDigest = given(tool?.definitionDigest)
  await registry.activateToolVersion({
    ...at(),
    name: "projects/project.create",
    version: toolVersion,
    definitionDigest,
  })
  const provider = `desk-${workspaceId.slice(-8)}`
  await mesh.client(ProviderService, admin).createProvider({
    ...at(),
    name: provider,
    connection: { kind: { case: "mcpHttp", value: { url: "http://127.0.0.1:9/mcp" } } },
    credentials: [{ name: "authorization", value: "Bearer of nothing" }],
  })
  const { member: delegate } = await mesh.client(MembershipService, admin).addMember({
    ...at(),
    displayName: "Delegate",
    role: Role.MEMBER,
    kind: 1,
  })
  const delegateId = given(delegate?.actorId)
  const { delegation } = await mesh
    .client(DelegationService, workspace.approver)
    .createDelegation({ ...at(), delegateId: admin.actorId, duration: { seconds: 3600n } })
  const runs = mesh.client(RunService, member)
  const { run } = await runs.startRun({
    ...at(),
    plan: {
      name: "archive",
      steps: [{ tool: "project.archive", arguments: { project_id: projectId } }],
    },
  })
  const runId = given(run?.runId)
  await until(async () => {
    const found = await runs.getRun({ workspaceId, runId })
    return found.run?.state === RunState.REQUIRES_ACTION
  })
  await blockedRun(mesh, workspace)
  const { approvals } = await mesh
    .client(ApprovalService, admin)
    .listApprovals({ workspaceId, runId })
  const { toolCalls } = await mesh
    .client(ToolCallService, admin)
    .listToolCalls({ workspaceId, runId })
  const { decisions } = await mesh
    .client(DecisionService, admin)
    .listDecisions({ workspaceId, runId })
  const alertId = await until(async () => {
    const { alerts } = await mesh.client(AlertService, admin).listAlerts({ workspaceId })
    return alerts[0]?.alertId
  })
  return {
    request_id: requestId,
    actor_id: actorId,
    key_id: given(apiKey?.keyId),
    decision_id: given(decisions[0]?.decisionId),
    policy_version: given(policyVersion?.policyVersion),
    rule_version: ruleVersion,
    tool_version: toolVersion,
    definition_digest: definitionDigest,
    provider,
    delegate_id: delegateId,
    delegation_id: given(delegation?.delegationId),
    run_id: runId,
    thread_id: given(run?.threadId),
    tool_call_id: given(toolCalls[0]?.toolCallId),
    approval_id: given(approvals[0]?.approvalId),
    digest: given(approvals[0]?.digest),
    project_id: projectId,
    document_id: given(document?.documentId),
    indexed_document_id: indexedId,
    alert_id: alertId,
    citation,
    snapshot: await snapshot(mesh, workspace),
  }
}

/** What a workspace holds, as JSON that can be compared. */
export async function snapshot(mesh: TestMesh, workspace: TestWorkspace): Promise<object> {
  const { workspaceId, admin } = workspace
  const page = { workspaceId, pageSize: 200 }
  return {
    projects: toJson(
      ListProjectsResponseSchema,
      await mesh.client(ProjectService, admin).listProjects(page),
    ),
    documents: toJson(
      ListDocumentsResponseSchema,
      await mesh.client(DocumentService, admin).listDocuments(page),
    ),
    runs: toJson(ListRunsResponseSchema, await mesh.client(RunService, admin).listRuns(page)),
    approvals: toJson(
      ListApprovalsResponseSchema,
      await mesh.client(ApprovalService, admin).listApprovals(page),
    ),
    delegations: toJson(
      ListDelegationsResponseSchema,
      await mesh.client(DelegationService, admin).listDelegations(page),
    ),
    members: toJson(
      ListMembersResponseSchema,
      await mesh.client(MembershipService, admin).listMembers(page),
    ),
    tools: toJson(
      RegistryServiceListToolsResponseSchema,
      await mesh.client(RegistryService, admin).listTools(page),
    ),
    providers: await ownProviders(mesh, workspace),
    policies: toJson(
      ListPolicyVersionsResponseSchema,
      await mesh.client(PolicyService, admin).listPolicyVersions(page),
    ),
  }
}

/** The workspace's own providers, without when they were asked: that happens by itself. */
async function ownProviders(mesh: TestMesh, { workspaceId, admin }: TestWorkspace) {
  const { providers } = await mesh.client(ProviderService, admin).listProviders({ workspaceId })
  return providers
    .filter(({ providerId }) => providerId !== "")
    .map((provider) => {
      const still = { ...provider, state: ProviderState.UNSPECIFIED, error: "" }
      delete still.attemptTime
      return toJson(ProviderSchema, still)
    })
}

/** A run that moderation blocks, so that there is something to be alarmed about. */
async function blockedRun(mesh: TestMesh, { workspaceId, member }: TestWorkspace): Promise<void> {
  const runs = mesh.client(RunService, member)
  const content = `-----BEGIN ${"PRIVATE"} KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END ${"PRIVATE"} KEY-----`
  const { run } = await runs.startRun({
    workspaceId,
    requestId: newId(),
    plan: {
      name: "leak",
      steps: [{ tool: "document.create", arguments: { title: "Leak", content } }],
    },
  })
  await until(async () => {
    const found = await runs.getRun({ workspaceId, runId: given(run?.runId) })
    return found.run?.state === RunState.FAILED
  })
}

function given(value: string | undefined): string {
  if (value === undefined || value === "") throw new Error("absent")
  return value
}
