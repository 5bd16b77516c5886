/** The spans of a run, with the names of the GenAI conventions. Arguments and results stay out. */
import { type Attributes, type Link, TraceFlags, type Tracer, trace } from "@opentelemetry/api"
import { activeTraceId, inSpan } from "../../../mesh/tracing.ts"
import type { RunRecord, ToolCallRecord } from "../run/snapshot.ts"
import type { Outcome } from "./execution.ts"

/** One segment of a run in one span: a child of what started it, or a new trace that links to it. */
export function inRunSpan<T>(
  tracer: Tracer,
  { now, isContinued }: { readonly isContinued: boolean; now(): RunRecord },
  work: () => Promise<T>,
): Promise<T> {
  const run = now()
  const links = isContinued ? linkTo(run.traceParent) : []
  const start = { links, root: isContinued }
  return inSpan(tracer, `invoke_workflow ${run.planName}`, start, async (span) => {
    if (span.isRecording()) span.setAttributes(runAttributes(run))
    try {
      return await work()
    } finally {
      const { state, reason } = now()
      span.setAttribute("runwarden.run.state", state)
      if (state === "failed" || state === "expired") span.setAttribute("error.type", reason)
    }
  })
}

/** The execution of a call in one span, and how long it took. */
export async function inCallSpan(
  tracer: Tracer,
  run: RunRecord,
  call: ToolCallRecord,
  work: () => Promise<Outcome>,
) {
  const startedAt = performance.now()
  return inSpan(tracer, `execute_tool ${call.tool}`, {}, async (span) => {
    if (span.isRecording()) span.setAttributes(callAttributes(run, call))
    const outcome = await work()
    if (span.isRecording()) span.setAttributes(outcomeAttributes(outcome))
    return { outcome, executionMs: performance.now() - startedAt, traceId: activeTraceId() }
  })
}

/** The span that is active now, in the form that a later trace can link to. */
export function activeTraceParent(): string {
  const span = trace.getActiveSpan()?.spanContext()
  return span === undefined ? "" : `00-${span.traceId}-${span.spanId}-01`
}

function runAttributes(run: RunRecord): Attributes {
  return {
    "gen_ai.operation.name": "invoke_workflow",
    "gen_ai.conversation.id": run.threadId,
    "runwarden.workspace.id": run.workspaceId,
    "runwarden.run.id": run.runId,
  }
}

function callAttributes(run: RunRecord, call: ToolCallRecord): Attributes {
  return {
    "gen_ai.operation.name": "execute_tool",
    "gen_ai.tool.name": call.tool,
    "gen_ai.tool.call.id": call.toolCallId,
    "gen_ai.tool.type": "function",
    "gen_ai.conversation.id": run.threadId,
    "runwarden.workspace.id": run.workspaceId,
    "runwarden.run.id": run.runId,
    "runwarden.tool.version": call.toolVersion,
    "runwarden.tool.risk_class": call.riskClass,
    "runwarden.policy.version": call.policyVersion,
    "runwarden.verdict": call.verdict ?? "",
    "runwarden.action": "execute",
    ...(call.approvalId === undefined ? {} : { "runwarden.approval.id": call.approvalId }),
  }
}

function outcomeAttributes(outcome: Outcome): Attributes {
  const { usage } = outcome
  const used =
    usage === undefined
      ? {}
      : {
          "gen_ai.usage.input_tokens": usage.inputTokens,
          "gen_ai.usage.output_tokens": usage.outputTokens,
        }
  switch (outcome.kind) {
    case "succeeded":
      return used
    case "failed":
      return { ...used, "error.type": outcome.reason }
    case "unknown":
      return { ...used, "error.type": "outcome_unknown" }
  }
}

/** A link to the trace that a W3C traceparent names; none where it names none. */
function linkTo(traceParent: string): Link[] {
  const [, traceId, spanId] = /^00-([0-9a-f]{32})-([0-9a-f]{16})-/.exec(traceParent) ?? []
  if (traceId === undefined || spanId === undefined) return []
  return [{ context: { traceId, spanId, traceFlags: TraceFlags.SAMPLED, isRemote: true } }]
}
