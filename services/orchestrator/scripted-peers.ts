/** What an orchestrator leans on, as a test scripts it: moderation, tools and their ledger, members, telemetry. */
import type { DescService, JsonObject } from "@bufbuild/protobuf"
import { create } from "@bufbuild/protobuf"
import type { HandlerContext } from "@connectrpc/connect"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { DecisionSchema, Verdict } from "../../gen/runwarden/moderation/v1/decision_pb.ts"
import {
  type ModerateRequest,
  ModerationService,
} from "../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import type { ExecuteRequest } from "../../gen/runwarden/tools/v1/execute_pb.ts"
import { ExecutionState } from "../../gen/runwarden/tools/v1/execution_pb.ts"
import {
  ExecutionService,
  type SealExecutionRequest,
} from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { LedgerService } from "../../gen/runwarden/tools/v1/ledger_service_pb.ts"
import type { PlannedStep, ResolvedTool } from "../../gen/runwarden/tools/v1/resolution_pb.ts"
import { Effect, RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { type Runtime, route } from "../../mesh/service.ts"
import { testClient, testRuntime } from "../../mesh/testing.ts"

/** What the peers do where a test wants something else; every member may be changed at any time. */
export interface Script {
  verdict: (request: ModerateRequest) => Verdict
  /** Replaces moderation's whole answer. */
  moderate: ((request: ModerateRequest) => Promise<object> | object) | undefined
  policyVersion: string
  /** What a tool does; throws for a status, answers `{error}` for an error of its own. */
  execute: (request: ExecuteRequest, context: HandlerContext) => Promise<JsonObject> | JsonObject
  /** What a call used up, as its tool reports it. */
  usage: (request: ExecuteRequest) => Usage | undefined
  /** What the version of a tool declares beside what its name says. */
  declared: (tool: string) => Partial<Pick<ResolvedTool, "defaultTimeout" | "maxUsage">>
  member: (actorId: string) => { member: boolean; role: Role }
  /** Calls that only the ledger knows. */
  strays: { runId: string; stepIndex: number }[]
}

interface Usage {
  readonly inputTokens?: bigint
  readonly outputTokens?: bigint
  readonly costMicros?: bigint
}

/** One row of the scripted ledger: what it did, and how often it was asked to. */
interface LedgerRow {
  readonly request: ExecuteRequest
  state: ExecutionState
  outcome: { case: "result"; value: JsonObject } | { case: "error"; value: object } | undefined
  usage?: Usage | undefined
  isSealed?: boolean
}

/** Scripted peers that several orchestrators may share. The ledger keeps one row per key. */
export function createPeers() {
  const effects: ExecuteRequest[] = []
  const judged: ModerateRequest[] = []
  const events: Event[] = []
  const ledger = new Map<string, LedgerRow>()
  const script: Script = {
    verdict: () => Verdict.ALLOWED,
    moderate: undefined,
    policyVersion: "test@1",
    execute: ({ stepIndex }) => ({ step: stepIndex, id: `made-${stepIndex}` }),
    usage: () => undefined,
    declared: () => ({}),
    member: () => ({ member: true, role: Role.APPROVER }),
    strays: [],
  }

  const moderation = fakeRoute(ModerationService, {
    async moderate(request: ModerateRequest) {
      judged.push(request)
      if (script.moderate !== undefined) return script.moderate(request)
      return { decision: decisionFor(request, script.verdict(request), script.policyVersion) }
    },
  })

  const membership = fakeRoute(MembershipService, {
    checkMembership: ({ actorId }: { actorId: string }) => script.member(actorId),
  })

  const telemetry = route(EventService, {
    recordEvents(request) {
      events.push(...request.events)
      return { recordedCount: request.events.length }
    },
    batchRecordEvents({ workspaces }) {
      const all = workspaces.flatMap((workspace) => workspace.events)
      events.push(...all)
      return { recordedCount: all.length }
    },
  })

  const execution = fakeRoute(ExecutionService, {
    resolvePlan({ steps }: { steps: readonly PlannedStep[] }) {
      const tools = steps.map(({ tool: name }, index) => {
        const tool = toolNamed(name)
        if (tool !== undefined) return { ...tool, ...script.declared(name) }
        throw new RunwardenError("UNKNOWN_TOOL", { field: `steps[${index}].tool`, tool: name })
      })
      for (const [index, step] of steps.entries()) requireFit(step.arguments, `steps[${index}].`)
      return { tools }
    },
    validateArguments(request: { arguments?: JsonObject }) {
      requireFit(request.arguments)
      return {}
    },
    async execute(request: ExecuteRequest, context: HandlerContext) {
      const claims = callerOf(context).call
      const isNamed =
        claims?.runId === request.runId &&
        claims.stepIndex === request.stepIndex &&
        claims.digest === request.argumentsDigest &&
        digestOfStruct(request.arguments ?? {}) === request.argumentsDigest
      if (!isNamed) throw new RunwardenError("DIGEST_MISMATCH", { field: "arguments_digest" })
      const known = ledger.get(request.idempotencyKey)
      if (known !== undefined) return { execution: executionOf(known), replayed: true }
      const row: LedgerRow = { request, state: ExecutionState.IN_FLIGHT, outcome: undefined }
      const isRead = request.tool.endsWith(".read")
      if (!isRead) ledger.set(request.idempotencyKey, row)
      try {
        const value = await script.execute(request, context)
        effects.push(request)
        const isError = "error" in value
        row.usage = script.usage(request)
        row.state = isError ? ExecutionState.FAILED : ExecutionState.SUCCEEDED
        row.outcome = isError
          ? { case: "error", value: value.error as object }
          : { case: "result", value }
        return { execution: executionOf(row) }
      } catch (error) {
        if (row.state === ExecutionState.IN_FLIGHT) ledger.delete(request.idempotencyKey)
        throw error
      }
    },
    sealExecution(request: SealExecutionRequest) {
      const known = ledger.get(request.idempotencyKey)
      if (known !== undefined) return { execution: executionOf(known), sealed: known.isSealed }
      const row: LedgerRow = {
        request: request as never,
        state: ExecutionState.FAILED,
        outcome: { case: "error", value: { reason: "not_executed" } },
        isSealed: true,
      }
      ledger.set(request.idempotencyKey, row)
      return { execution: executionOf(row), sealed: true }
    },
    cancelExecution: () => ({ stopping: true }),
    getExecution(request: { idempotencyKey: string }) {
      const row = ledger.get(request.idempotencyKey)
      if (row === undefined) {
        throw new RunwardenError("NOT_FOUND", { resource: "execution", id: request.idempotencyKey })
      }
      return { execution: executionOf(row) }
    },
  })

  const sentCalls = fakeRoute(LedgerService, {
    listExecutions: () => ({
      calls: [
        ...[...ledger.values()].map(({ request, state }) => ({
          ...{ runId: request.runId, stepIndex: request.stepIndex, tool: request.tool, state },
          idempotencyKey: request.idempotencyKey,
        })),
        ...script.strays.map((stray) => ({ ...stray, state: ExecutionState.SUCCEEDED })),
      ],
    }),
  })

  const target = (routes: Parameters<typeof testClient>[1]["routes"], runtime: Runtime) => ({
    routes,
    runtime,
  })
  const clients = {
    moderation: testClient(
      ModerationService,
      target([moderation], testRuntime("moderation")),
      "orchestrator",
    ),
    tools: testClient(ExecutionService, target([execution], testRuntime("tools")), "orchestrator"),
    ledger: testClient(LedgerService, target([sentCalls], testRuntime("tools")), "orchestrator"),
    membership: testClient(
      MembershipService,
      target([membership], testRuntime("gateway")),
      "orchestrator",
    ),
    telemetry: testClient(
      EventService,
      target([telemetry], testRuntime("telemetry")),
      "orchestrator",
    ),
  }
  return { script, effects, judged, events, ledger, clients }
}

export type Peers = ReturnType<typeof createPeers>

/** A decision as moderation gives it. */
export function decisionFor(request: ModerateRequest, verdict: Verdict, policyVersion = "test@1") {
  return create(DecisionSchema, {
    decisionId: newId(),
    workspaceId: request.workspaceId,
    subject: request.subject,
    verdict,
    policyVersion,
    contentDigest: digestOfStruct(request.content ?? {}),
    tool: request.tool,
    runId: request.runId,
    ...(request.stepIndex === undefined ? {} : { stepIndex: request.stepIndex }),
    ...(verdict === Verdict.ALLOWED
      ? {}
      : {
          categories: { violence: 0.9, harassment: 0.2 },
          matchedRules: [{ ruleId: "rule-1", verdict, category: "violence" }],
        }),
  })
}

/** A service of which a test serves what it needs. */
export function fakeRoute(service: DescService, handlers: Readonly<Record<string, unknown>>) {
  const missing = () => {
    throw new RunwardenError("METHOD_NOT_FOUND", { method: service.typeName })
  }
  const all = service.methods.map(({ localName }) => [localName, handlers[localName] ?? missing])
  return route(service, Object.fromEntries(all))
}

/** Tools are named for what they are: `test/low.keyed`, `test/high.unsafe` and so on. */
function toolNamed(name: string) {
  const match = /^(?:test\/)?(low|medium|high)\.(read|keyed|unsafe)$/.exec(name)
  if (match === null) return undefined
  const [, risk = "", effect = ""] = match
  return {
    fullName: `test/${risk}.${effect}`,
    version: "1.0.0",
    definitionDigest: digestOfStruct({ name: `test/${risk}.${effect}` }),
    riskClass: { low: RiskClass.LOW, medium: RiskClass.MEDIUM, high: RiskClass.HIGH }[risk] ?? 0,
    effect: { read: Effect.READ, keyed: Effect.KEYED, unsafe: Effect.UNSAFE }[effect] ?? 0,
  }
}

/** Arguments with a member `invalid: true` break the schema of every tool. */
function requireFit(args: JsonObject | undefined, place = ""): void {
  if (args?.invalid !== true) return
  const field = `${place}arguments/invalid`
  throw new RunwardenError(
    "TOOL_ARGUMENTS_INVALID",
    { field, tool: "test" },
    { violations: [{ field, description: "must not be there" }] },
  )
}

function executionOf(row: LedgerRow) {
  return {
    state: row.state,
    attempts: 1,
    ...(row.usage === undefined ? {} : { usage: row.usage }),
    ...(row.outcome === undefined ? {} : { outcome: row.outcome as never }),
  }
}
