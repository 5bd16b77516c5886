// What is wrong with the trace of a run; nothing where it is as the contract says.
import type { ReadableSpan } from "@opentelemetry/sdk-trace"
import { VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import type { ToolCall } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { type AskedRun, executedCalls } from "./main-job-runs.ts"

const startSpan = "runwarden.orchestrator.v1.RunService/StartRun"
const providerSpan = "runwarden.tools.v1.ToolProviderService/ExecuteTool"

/** Finished spans, by what the checks look for. */
export class TraceBook {
  readonly #byId = new Map<string, ReadableSpan>()
  readonly #byRun = new Map<string, ReadableSpan[]>()
  readonly #providersByTrace = new Map<string, ReadableSpan[]>()

  constructor(spans: readonly ReadableSpan[]) {
    for (const span of spans) {
      this.#byId.set(span.spanContext().spanId, span)
      const runId = span.attributes["runwarden.run.id"]
      if (typeof runId === "string") add(this.#byRun, runId, span)
      if (span.name === providerSpan) {
        add(this.#providersByTrace, span.spanContext().traceId, span)
      }
    }
  }

  /** One line per fault of the run's traces. */
  faultsOf(asked: AskedRun): readonly string[] {
    const { run, course } = asked
    const own = this.#byRun.get(run.runId) ?? []
    const workflows = own.filter(({ name }) => name === "invoke_workflow answer")
    const executions = own.filter(({ name }) => name.startsWith("execute_tool "))
    const [first] = workflows.filter((span) => span.spanContext().traceId === run.traceId)
    const calls = executedCalls(asked)
    const isStarted = this.#pathOf(first).at(-1)?.name === startSpan
    const faults = [
      // A run whose answer comes at once goes on in the trace that asked; others in a second one.
      ...wrong(
        "workflows",
        workflows.length === 1 || (course === "confirmed" && workflows.length === 2),
        true,
      ),
      ...wrong("executions", executions.length, calls.length),
      ...wrong("the first workflow begins at StartRun", isStarted, true),
      ...wrong(
        "workflows name the workspace",
        workflows.every((span) => span.attributes["runwarden.workspace.id"] === run.workspaceId),
        true,
      ),
      ...wrong(
        "later workflows link to the first trace",
        workflows
          .filter((span) => span !== first)
          .every(({ links }) => links.some((link) => link.context.traceId === run.traceId)),
        true,
      ),
      ...calls.flatMap((call) => this.#faultsOfCall(call, executions)),
    ]
    return faults.map((fault) => `${run.runId} (${course}): ${fault}`)
  }

  #faultsOfCall(call: ToolCall, executions: readonly ReadableSpan[]): readonly string[] {
    const spans = executions.filter(
      ({ attributes }) => attributes["gen_ai.tool.call.id"] === call.toolCallId,
    )
    const [span] = spans
    if (span === undefined || spans.length > 1) return [`${call.tool} has ${spans.length} spans`]
    const { traceId, spanId } = span.spanContext()
    const service = `runwarden-${call.tool.split("/")[0]}`
    const reached = (this.#providersByTrace.get(traceId) ?? []).filter(
      (provider) =>
        provider.resource.attributes["service.name"] === service &&
        this.#pathOf(provider).some((above) => above.spanContext().spanId === spanId),
    )
    return [
      ...wrong(`trace of ${call.tool}`, traceId, call.traceId),
      ...wrong(`name of ${call.tool}`, span.name, `execute_tool ${call.tool}`),
      ...wrong(`parent of ${call.tool}`, this.#pathOf(span)[1]?.name, "invoke_workflow answer"),
      ...wrong(
        `workspace of ${call.tool}`,
        span.attributes["runwarden.workspace.id"],
        call.workspaceId,
      ),
      ...wrong(`verdict of ${call.tool}`, span.attributes["runwarden.verdict"], verdictName(call)),
      ...wrong(`${service} reached by ${call.tool}`, reached.length > 0, true),
    ]
  }

  /** The span and those above it. */
  #pathOf(span: ReadableSpan | undefined): readonly ReadableSpan[] {
    const path: ReadableSpan[] = []
    for (let at = span; at !== undefined; ) {
      path.push(at)
      at = this.#byId.get(at.parentSpanContext?.spanId ?? "")
    }
    return path
  }
}

function verdictName({ verdict }: ToolCall): string | undefined {
  return VerdictSchema.value[verdict]?.localName.toLowerCase()
}

function wrong(what: string, actual: unknown, expected: unknown): readonly string[] {
  return actual === expected ? [] : [`${what}: ${actual} instead of ${expected}`]
}

function add(map: Map<string, ReadableSpan[]>, key: string, span: ReadableSpan): void {
  const known = map.get(key)
  if (known === undefined) map.set(key, [span])
  else known.push(span)
}
