/** What the service's tests share: an orchestrator on a real database, with scripted peers. */

import type { JsonObject } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalState } from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { ApprovalRuleService } from "../../gen/runwarden/orchestrator/v1/approval_rule_service_pb.ts"
import { Answer, ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { BudgetService } from "../../gen/runwarden/orchestrator/v1/budget_service_pb.ts"
import { BulkRunService } from "../../gen/runwarden/orchestrator/v1/bulk_run_service_pb.ts"
import { DelegationService } from "../../gen/runwarden/orchestrator/v1/delegation_service_pb.ts"
import { OrphanService } from "../../gen/runwarden/orchestrator/v1/orphan_service_pb.ts"
import { OnError } from "../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import type { Run } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ThreadService } from "../../gen/runwarden/orchestrator/v1/thread_service_pb.ts"
import { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import type { Runtime } from "../../mesh/service.ts"
import { testClient, testDatabase, testRuntime, until } from "../../mesh/testing.ts"
import { type OrchestratorConfig, readConfig } from "./config.ts"
import { createPeers, type Peers } from "./scripted-peers.ts"
import { createOrchestrator } from "./service.ts"

export { createPeers, decisionFor, fakeRoute } from "./scripted-peers.ts"

export interface OrchestratorOptions {
  readonly database?: OrchestratorConfig["database"]
  readonly peers?: Peers
  readonly runtime?: Runtime
  readonly executor?: Partial<OrchestratorConfig["executor"]>
  readonly approval?: Partial<OrchestratorConfig["approval"]>
  readonly limits?: Partial<OrchestratorConfig["limits"]>
  readonly watch?: Partial<OrchestratorConfig["watch"]>
}

/** Starts an orchestrator; several may share a database and peers. */
export async function startOrchestrator(options: OrchestratorOptions = {}) {
  const stack = new AsyncDisposableStack()
  const database = options.database ?? stack.use(await testDatabase("orchestrator"))
  const peers = options.peers ?? createPeers()
  const runtime = options.runtime ?? testRuntime("orchestrator")
  const defaults = readConfig({
    ORCHESTRATOR_DATABASE_URL: database.appUrl,
    ORCHESTRATOR_WORKER_DATABASE_URL: database.workerUrl,
  })
  const config: OrchestratorConfig = {
    ...defaults,
    database,
    executor: {
      ...defaults.executor,
      leaseMs: 1_500,
      pollMs: 100,
      retryMs: 20,
      settleMs: 400,
      drainMs: 300,
      moderateTimeoutMs: 400,
      ...options.executor,
    },
    approval: { ...defaults.approval, ...options.approval },
    limits: { ...defaults.limits, ...options.limits },
    watch: { ...defaults.watch, pollMs: 100, ...options.watch },
  }
  const service = stack.use(createOrchestrator(config, { runtime, ...peers.clients }))
  await service.start(AbortSignal.timeout(30_000))
  const target = { routes: service.routes, runtime }
  return {
    database,
    peers,
    runs: testClient(RunService, target),
    bulk: testClient(BulkRunService, target),
    budgets: testClient(BudgetService, target),
    threads: testClient(ThreadService, target),
    toolCalls: testClient(ToolCallService, target),
    orphans: testClient(OrphanService, target),
    approvals: testClient(ApprovalService, target),
    rules: testClient(ApprovalRuleService, target),
    delegations: testClient(DelegationService, target),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

export type Orchestrator = Awaited<ReturnType<typeof startOrchestrator>>

/** One workspace with a requester and an approver, and what they do. */
export function inWorkspace(orchestrator: Orchestrator, workspaceId: string = newId()) {
  const { runs, toolCalls, approvals } = orchestrator
  const requesterId = newId()
  const approverId = newId()
  const requester = actingAs(memberSubject(workspaceId, requesterId, Role.MEMBER))
  const approver = actingAs(memberSubject(workspaceId, approverId, Role.APPROVER))
  const me = {
    workspaceId,
    requesterId,
    approverId,
    requester,
    approver,
    async start(steps: readonly StepInit[], extra: object = {}): Promise<Run> {
      const request = {
        workspaceId,
        requestId: newId(),
        plan: { name: "test", steps: steps.map(toStep) },
        ...extra,
      }
      const { run } = await runs.startRun(request, requester)
      if (run === undefined) throw new Error("no run")
      return run
    },
    async get(runId: string): Promise<Run> {
      const { run } = await runs.getRun({ workspaceId, runId }, requester)
      if (run === undefined) throw new Error("no run")
      return run
    },
    reaches(runId: string, state: number, timeoutMs = 8_000): Promise<Run> {
      return until(
        async () => {
          const run = await me.get(runId)
          if (run.endTime !== undefined && run.state !== state) {
            throw new Error(`run ${runId} ended in state ${run.state} by "${run.reason}"`)
          }
          return run.state === state && run
        },
        { timeoutMs },
      )
    },
    async callsOf(runId: string) {
      const listed = await toolCalls.listToolCalls({ workspaceId, runId }, requester)
      return Promise.all(
        listed.toolCalls.map(async ({ toolCallId }) => {
          const { toolCall } = await toolCalls.getToolCall({ workspaceId, toolCallId }, requester)
          if (toolCall === undefined) throw new Error("no call")
          return toolCall
        }),
      )
    },
    async pendingApproval(runId: string) {
      const found = await until(async () => {
        const states = [ApprovalState.PENDING]
        const page = await approvals.listApprovals({ workspaceId, runId, states }, requester)
        return page.approvals[0]
      })
      const { approvalId } = found
      const { approval } = await approvals.getApproval({ workspaceId, approvalId }, requester)
      if (approval === undefined) throw new Error("no approval")
      return approval
    },
    async decide(
      approval: { readonly approvalId: string; readonly digest: string },
      answer: Answer = Answer.APPROVE,
      options = approver,
    ) {
      const { approvalId, digest } = approval
      const request = { workspaceId, requestId: newId(), approvalId, digest, answer }
      return (await approvals.decide(request, options)).approval
    },
    cancel(runId: string) {
      return runs.cancelRun({ workspaceId, runId, requestId: newId() }, requester)
    },
    async history(runId: string) {
      return (await runs.listRunEvents({ workspaceId, runId, pageSize: 1000 }, requester)).events
    },
  }
  return me
}

export interface StepInit {
  readonly tool: string
  readonly arguments?: JsonObject
  readonly onError?: OnError
  readonly timeoutMs?: number
}

function toStep({ tool, arguments: args = {}, onError = OnError.STOP, timeoutMs }: StepInit) {
  const timeout = timeoutMs === undefined ? {} : { timeout: durationFromMs(timeoutMs) }
  return { tool, arguments: args, onError, title: `use ${tool}`, ...timeout }
}
