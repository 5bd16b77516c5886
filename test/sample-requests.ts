/** A request of every public RPC that is right, to be made wrong in one place. */
import {
  clone,
  create,
  type DescMethod,
  type Message,
  type MessageInitShape,
} from "@bufbuild/protobuf"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { CitationSchema } from "../gen/runwarden/retrieval/v1/citation_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortName } from "./descriptors.ts"
import type { Population } from "./population.ts"

/** A valid request of every public RPC, with the ids of one workspace. */
export const sampleRequests: Readonly<Record<string, (own: Population) => object>> = {
  "ApiKeyService/CreateApiKey": (own) => ({ actorId: own.actor_id, displayName: "second" }),
  "ApiKeyService/ListApiKeys": (own) => ({ actorId: own.actor_id }),
  "ApiKeyService/RevokeApiKey": (own) => ({ keyId: own.key_id }),
  "MembershipService/AddMember": () => ({ displayName: "New", role: Role.VIEWER, kind: 1 }),
  "MembershipService/GetMember": (own) => ({ actorId: own.actor_id }),
  "MembershipService/ListMembers": () => ({}),
  "MembershipService/UpdateMember": (own) => ({ actorId: own.actor_id, displayName: "Renamed" }),
  "MembershipService/RemoveMember": (own) => ({ actorId: own.actor_id }),
  "WorkspaceService/GetWorkspace": () => ({}),
  "DecisionService/GetDecision": (own) => ({ decisionId: own.decision_id }),
  "DecisionService/ListDecisions": (own) => ({ runId: own.run_id }),
  "PolicyService/GetActivePolicy": () => ({}),
  "PolicyService/GetPolicyVersion": (own) => ({ policyVersion: own.policy_version }),
  "PolicyService/ListPolicyVersions": () => ({}),
  "PolicyService/CreatePolicyVersion": () => ({
    name: "again",
    rules: [
      {
        ruleId: "no-never",
        verdict: 3,
        category: "other",
        description: "Never.",
        matcher: { case: "words", value: { words: ["never-ever"] } },
      },
    ],
  }),
  "PolicyService/ActivatePolicyVersion": (own) => ({ policyVersion: own.policy_version }),
  "PolicyService/TestPolicyVersion": (own) => ({
    policyVersion: own.policy_version,
    subject: 2,
    content: { text: "hello" },
    tool: "projects/document.create",
  }),
  "ApprovalService/ListApprovals": (own) => ({ runId: own.run_id }),
  "ApprovalService/GetApproval": (own) => ({ approvalId: own.approval_id }),
  "ApprovalService/Decide": (own) => ({
    approvalId: own.approval_id,
    digest: own.digest,
    answer: 2,
  }),
  "ApprovalService/DecideAsDelegate": (own) => ({
    approvalId: own.approval_id,
    digest: own.digest,
    answer: 2,
    delegationId: own.delegation_id,
  }),
  "ApprovalService/BreakGlass": (own) => ({
    approvalId: own.approval_id,
    digest: own.digest,
    reason: "the site is down",
  }),
  "ApprovalRuleService/GetActiveApprovalRules": () => ({}),
  "ApprovalRuleService/GetApprovalRuleVersion": (own) => ({ ruleVersion: own.rule_version }),
  "ApprovalRuleService/ListApprovalRuleVersions": () => ({}),
  "ApprovalRuleService/CreateApprovalRuleVersion": () => ({
    rules: [{ ruleId: "two", quorum: 2 }],
  }),
  "ApprovalRuleService/ActivateApprovalRuleVersion": (own) => ({ ruleVersion: own.rule_version }),
  "DelegationService/CreateDelegation": (own) => ({
    delegateId: own.delegate_id,
    duration: { seconds: 60n },
  }),
  "DelegationService/ListDelegations": (own) => ({ actorId: own.actor_id }),
  "DelegationService/RevokeDelegation": (own) => ({ delegationId: own.delegation_id }),
  "OrphanService/ListOrphans": () => ({}),
  "BulkRunService/BulkCancelRuns": (own) => ({ threadId: own.thread_id, actorId: own.actor_id }),
  "RunService/StartRun": () => ({
    plan: { name: "list", steps: [{ tool: "project.list", arguments: {} }] },
    threadId: newId(),
  }),
  "RunService/GetRun": (own) => ({ runId: own.run_id }),
  "RunService/ListRuns": (own) => ({ threadId: own.thread_id }),
  "RunService/CancelRun": (own) => ({ runId: own.run_id }),
  "RunService/ReleaseRun": (own) => ({ runId: own.run_id }),
  "RunService/WatchRun": (own) => ({ runId: own.run_id }),
  "RunService/ListRunEvents": (own) => ({ runId: own.run_id }),
  "BudgetService/GetBudget": () => ({}),
  "BudgetService/SetBudget": () => ({ maxDailyToolCalls: 1_000_000 }),
  "ThreadService/GetThread": (own) => ({ threadId: own.thread_id }),
  "ThreadService/ListThreads": () => ({}),
  "ToolCallService/GetToolCall": (own) => ({ toolCallId: own.tool_call_id }),
  "ToolCallService/ListToolCalls": (own) => ({ runId: own.run_id }),
  "ToolCallService/SettleToolCall": (own) => ({
    toolCallId: own.tool_call_id,
    outcome: { case: "result", value: { done: true } },
  }),
  "DocumentService/CreateDocument": (own) => ({
    projectId: own.project_id,
    title: "Another",
    mediaType: "text/plain",
    content: "text",
  }),
  "DocumentService/GetDocument": (own) => ({ documentId: own.document_id }),
  "DocumentService/ListDocuments": (own) => ({ projectId: own.project_id }),
  "DocumentService/UpdateDocument": (own) => ({ documentId: own.document_id, title: "Renamed" }),
  "DocumentService/DeleteDocument": (own) => ({ documentId: own.document_id }),
  "ProjectService/CreateProject": () => ({ name: "Another" }),
  "ProjectService/GetProject": (own) => ({ projectId: own.project_id }),
  "ProjectService/ListProjects": () => ({}),
  "ProjectService/UpdateProject": (own) => ({ projectId: own.project_id, name: "Renamed" }),
  "ProjectService/TransitionProject": (own) => ({ projectId: own.project_id, state: 2 }),
  "ProjectService/ArchiveProject": (own) => ({ projectId: own.project_id }),
  "IngestionService/IngestDocument": () => ({
    documentId: newId(),
    version: 1n,
    title: "Text",
    mediaType: "text/plain",
    content: "text",
  }),
  "IngestionService/GetDocument": (own) => ({ documentId: own.indexed_document_id }),
  "IngestionService/ListDocuments": () => ({}),
  "IngestionService/DeleteDocument": () => ({ documentId: newId(), version: 1n }),
  "SearchService/Search": (own) => ({ query: "text", documentIds: [own.indexed_document_id] }),
  "SearchService/VerifyCitation": (own) => ({ citation: clone(CitationSchema, own.citation) }),
  "AlertService/ListAlerts": () => ({}),
  "AlertService/AcknowledgeAlert": (own) => ({ alertId: own.alert_id }),
  "MetricsService/GetMetrics": () => ({}),
  "MetricsService/QueryTimeSeries": () => ({}),
  "RegistryService/ListTools": () => ({}),
  "RegistryService/GetTool": () => ({ name: "projects/project.create" }),
  "ProviderService/CreateProvider": () => ({
    name: `tickets-${newId().slice(-8)}`,
    connection: { kind: { case: "mcpHttp", value: { url: "https://mcp.example.com/mcp" } } },
    credentials: [{ name: "x-api-key", value: "a value that is kept" }],
    toolSettings: { look: { riskClass: 1, effect: 1 } },
  }),
  "ProviderService/GetProvider": (own) => ({ provider: own.provider }),
  "ProviderService/ListProviders": () => ({}),
  "ProviderService/UpdateProvider": (own) => ({
    provider: own.provider,
    setCredentials: [{ name: "x-api-key", value: "another value" }],
    removeCredentials: ["authorization"],
    setToolSettings: { look: { riskClass: 1, effect: 1 } },
  }),
  "ProviderService/DeleteProvider": (own) => ({ provider: own.provider }),
  "ProviderService/RefreshProvider": (own) => ({ provider: own.provider }),
  "RegistryService/ListToolVersions": () => ({ name: "projects/project.create" }),
  "RegistryService/ActivateToolVersion": (own) => ({
    name: "projects/project.create",
    version: own.tool_version,
    definitionDigest: own.definition_digest,
  }),
  "RegistryService/RollBackTool": () => ({ name: "projects/project.create" }),
}

/** A valid request of the method in a workspace, under a new request id where it takes one. */
export function sampleRequest(method: DescMethod, workspaceId: string, own: Population): Message {
  const build = sampleRequests[shortName(method)]
  if (build === undefined) throw new Error(`no request for ${shortName(method)}`)
  const ids = method.input.field.requestId === undefined ? {} : { requestId: newId() }
  const init = { workspaceId, ...ids, ...build(own) }
  return create(method.input, init as MessageInitShape<typeof method.input>)
}
