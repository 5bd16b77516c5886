import type { DescMethod, DescService } from "@bufbuild/protobuf"
import { ApiKeyService } from "../../gen/runwarden/gateway/v1/api_key_service_pb.ts"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { WorkspaceService } from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { DecisionService } from "../../gen/runwarden/moderation/v1/decision_service_pb.ts"
import { PolicyService } from "../../gen/runwarden/moderation/v1/policy_service_pb.ts"
import { Exposure } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalRuleService } from "../../gen/runwarden/orchestrator/v1/approval_rule_service_pb.ts"
import { ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { BudgetService } from "../../gen/runwarden/orchestrator/v1/budget_service_pb.ts"
import { BulkRunService } from "../../gen/runwarden/orchestrator/v1/bulk_run_service_pb.ts"
import { DelegationService } from "../../gen/runwarden/orchestrator/v1/delegation_service_pb.ts"
import { OrphanService } from "../../gen/runwarden/orchestrator/v1/orphan_service_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ThreadService } from "../../gen/runwarden/orchestrator/v1/thread_service_pb.ts"
import { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { DocumentService } from "../../gen/runwarden/projects/v1/document_service_pb.ts"
import { ProjectService } from "../../gen/runwarden/projects/v1/project_service_pb.ts"
import { IngestionService } from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { SearchService } from "../../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { AlertService } from "../../gen/runwarden/telemetry/v1/alert_service_pb.ts"
import { MetricsService } from "../../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { ProviderService } from "../../gen/runwarden/tools/v1/provider_service_pb.ts"
import { RegistryService } from "../../gen/runwarden/tools/v1/registry_service_pb.ts"
import { type ServiceName, serviceNames } from "../../mesh/identity.ts"
import { accessRuleOf } from "../../mesh/interceptors.ts"

/**
 * What the world can reach. A test compares the list with everything that is generated, so that no
 * public RPC is forgotten.
 */
export const publicServices: readonly DescService[] = [
  AlertService,
  ApiKeyService,
  ApprovalRuleService,
  ApprovalService,
  BudgetService,
  BulkRunService,
  DecisionService,
  DelegationService,
  DocumentService,
  IngestionService,
  MembershipService,
  MetricsService,
  OrphanService,
  PolicyService,
  ProjectService,
  ProviderService,
  RegistryService,
  RunService,
  SearchService,
  ThreadService,
  ToolCallService,
  WorkspaceService,
]

/** Whether the gateway forwards a method at all. Throws for a method without an access rule. */
export function isForwarded(method: DescMethod): boolean {
  return accessRuleOf(method).exposure !== Exposure.INTERNAL
}

/** The service behind an RPC: the area in the name of its package. */
export function upstreamOf(service: DescService): ServiceName {
  const area = service.typeName.split(".")[1]
  const found = serviceNames.find((name) => name === area)
  if (found === undefined) throw new Error(`${service.typeName} is of no service of the mesh`)
  return found
}

/**
 * A service without its internal methods. What is not in the descriptor cannot be registered, so an
 * internal method gets the very answer of one that does not exist.
 */
export function publicPart(service: DescService): DescService {
  const methods = service.methods.filter(isForwarded)
  const method = Object.fromEntries(methods.map((each) => [each.localName, each]))
  return { ...service, methods, method }
}
