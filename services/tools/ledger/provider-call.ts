/**
 * One call of a provider, and what its answer or its silence means. Which status proves that a call
 * never ran is decided here and nowhere else: everything that is not on a list counts as lost.
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { durationMs } from "@bufbuild/protobuf/wkt"
import { type CallOptions, Code, ConnectError } from "@connectrpc/connect"
import {
  type ExecuteToolResponse,
  Outcome,
  type ToolError,
} from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { type Reason, RunwardenError, reasonOf, retryAfterOf } from "../../../mesh/errors.ts"
import { wasNeverSent } from "../../../mesh/never-sent.ts"
import { maxAmount } from "../registry/definition.ts"
import type { PinnedTool } from "../registry/pinned-tool.ts"
import type { ProviderClient } from "../registry/registry.ts"
import type { Answer, Report } from "./answer.ts"
import type { ToolFailure } from "./ledger.ts"

/** What is sent: the tool's pinned version, the key, and the arguments that were digested. */
export interface ProviderCall {
  readonly client: ProviderClient
  readonly tool: PinnedTool
  readonly workspaceId: string
  readonly runId: string
  readonly idempotencyKey: string
  readonly arguments: JsonObject
}

/** How an answer is judged. `attempt` is the number of the sending. */
export interface AnswerRules {
  readonly maxResultBytes: number
  readonly attempt: number
}

/** The provider refused before any effect: its contract keeps these codes for calls that did not run. */
const refusedCodes: ReadonlySet<Code> = new Set([
  Code.InvalidArgument,
  Code.Unauthenticated,
  Code.PermissionDenied,
  Code.NotFound,
  Code.AlreadyExists,
  Code.FailedPrecondition,
  Code.OutOfRange,
  Code.Unimplemented,
])

/** What this service says in place of a provider that it does not call. */
const ownWords: ReadonlySet<Reason> = new Set<Reason>([
  "CREDENTIALS_UNAVAILABLE",
  "PROVIDER_REMOVED",
])

const maxReasonLength = 128
const maxMessageLength = 4_096
const maxMetadataBytes = 8_192
const maxRetryAfterMs = 300_000
const maxDepth = 100

export async function callProvider(
  call: ProviderCall,
  rules: AnswerRules,
  options: CallOptions,
): Promise<Answer> {
  let response: ExecuteToolResponse
  try {
    response = await call.client.executeTool(
      {
        workspaceId: call.workspaceId,
        tool: call.tool.name,
        version: call.tool.version,
        idempotencyKey: call.idempotencyKey,
        arguments: call.arguments,
        runId: call.runId,
      },
      options,
    )
  } catch (error) {
    return answerOfError(error)
  }
  return withUsage(response, readResponse(response, call.tool, rules))
}

/** Asks what became of a call. A provider that cannot be reached does not know either. */
export async function askProvider(
  call: ProviderCall,
  rules: AnswerRules,
  options: CallOptions,
): Promise<Report> {
  try {
    const { workspaceId, tool, idempotencyKey } = call
    const { outcome, response } = await call.client.getOutcome(
      { workspaceId, tool: tool.name, idempotencyKey },
      options,
    )
    if (outcome === Outcome.NOT_EXECUTED) return { kind: "not_executed" }
    if (outcome !== Outcome.COMPLETED || response === undefined) return { kind: "unknown" }
    const answer = withUsage(response, readResponse(response, call.tool, rules))
    return { kind: "completed", answer }
  } catch {
    return { kind: "unknown" }
  }
}

/** Sorts the error of a call by what it proves. */
export function answerOfError(error: unknown): Answer {
  const word = reasonOf(error)
  const isOurs = error instanceof RunwardenError && ownWords.has(error.reason)
  const failed = {
    reason: (word ?? "unknown").toLowerCase(),
    message: isOurs ? error.message : `The provider answered ${word ?? "with an error"}.`,
    ...retryAfter(retryAfterOf(error)),
  }
  if (word === "SHUTTING_DOWN") return { kind: "unsent", ...failed }
  if (wasNeverSent(error)) {
    const message = "No connection to the provider could be made."
    return { kind: "unsent", reason: "provider_unavailable", message }
  }
  const code = codeOf(error)
  if (code === Code.ResourceExhausted) {
    // A limit by its own word is before the effect; without one it is the size of the answer.
    if (word !== "LIMIT_EXCEEDED") {
      return { kind: "oversized", message: "The result is larger than a message may be." }
    }
    if (failed.retryAfterMs === undefined) return { kind: "refused", ...failed }
    return { kind: "unsent", ...failed }
  }
  if (code !== undefined && refusedCodes.has(code)) return { kind: "refused", ...failed }
  return { kind: "lost", ...failed }
}

/** An answer with what it used up. */
function withUsage({ usage }: ExecuteToolResponse, answer: Answer): Answer {
  if (usage === undefined) return answer
  const { inputTokens, outputTokens, costMicros } = usage
  return {
    ...answer,
    usage: {
      inputTokens: toAmount(inputTokens),
      outputTokens: toAmount(outputTokens),
      costMicros: toAmount(costMicros),
    },
  }
}

function toAmount(amount: bigint): number {
  return Number(amount > maxAmount ? maxAmount : amount)
}

function readResponse(response: ExecuteToolResponse, tool: PinnedTool, rules: AnswerRules): Answer {
  const { outcome } = response
  if (outcome.case === "result") return readResult(outcome.value, tool, rules)
  if (outcome.case === "error") return readError(outcome.value, tool, rules)
  const message = "The provider answered without an outcome."
  return { kind: "lost", reason: "no_outcome", message }
}

function readResult(result: JsonObject, tool: PinnedTool, { maxResultBytes }: AnswerRules): Answer {
  const flaw = flawOf(result, maxDepth)
  if (flaw !== undefined) return invalidResult(`The result holds ${flaw}.`)
  const text = JSON.stringify(result)
  const size = Buffer.byteLength(text)
  if (size > maxResultBytes) {
    const message = `The result has ${size} bytes; ${maxResultBytes} are taken.`
    return { kind: "unusable", reason: "result_too_large", message }
  }
  const fault = tool.faultOfResult(result)
  if (fault === undefined) return { kind: "result", result, text }
  return invalidResult(
    `The result breaks the output schema at "${fault.pointer}": ${fault.description}.`,
  )
}

/** What a value holds that has no canonical JSON form, or that Postgres does not take. */
function flawOf(value: JsonValue | undefined, depth: number): string | undefined {
  switch (typeof value) {
    case "string":
      return flawOfText(value)
    case "number":
      return Number.isFinite(value) ? undefined : "a number that JSON cannot hold"
    case "object": {
      if (value === null) return undefined
      if (depth === 0) return `values nested deeper than ${maxDepth} levels`
      for (const [key, member] of Object.entries(value)) {
        const flaw = flawOfText(key) ?? flawOf(member, depth - 1)
        if (flaw !== undefined) return flaw
      }
    }
  }
  return undefined
}

function flawOfText(text: string): string | undefined {
  if (text.includes("\0")) return "a NUL character"
  return text.isWellFormed() ? undefined : "half a character"
}

function invalidResult(message: string): Answer {
  return { kind: "unusable", reason: "result_invalid", message: storable(message) }
}

function readError(error: ToolError, tool: PinnedTool, { attempt }: AnswerRules): Answer {
  const own = readToolError(error)
  const { maxAttempts, retryableReasons } = tool.retry
  const isRetryable = retryableReasons.includes(own.reason) && attempt < maxAttempts
  const waitMs = error.retryAfter === undefined ? undefined : durationMs(error.retryAfter)
  return { kind: "tool_error", error: own, isRetryable, ...retryAfter(waitMs) }
}

/** The tool's own error, held to its contract. `applied` is this service's word, not a provider's. */
function readToolError({ reason, message, metadata }: ToolError): ToolFailure {
  const { applied: _, ...own } = metadata
  const isSmall = JSON.stringify(own).length <= maxMetadataBytes
  return {
    reason: /^[a-z0-9_]+$/.test(reason) ? reason.slice(0, maxReasonLength) : "tool_failed",
    message: storable(message),
    metadata: isSmall
      ? Object.fromEntries(
          Object.entries(own).map(([key, value]) => [storable(key), storable(value)]),
        )
      : {},
  }
}

/** Postgres takes neither NUL nor half a surrogate pair. */
function storable(text: string): string {
  return text.slice(0, maxMessageLength).replaceAll("\0", "").toWellFormed()
}

function codeOf(error: unknown): Code | undefined {
  return error instanceof ConnectError || error instanceof RunwardenError ? error.code : undefined
}

function retryAfter(waitMs: number | undefined): { readonly retryAfterMs?: number } {
  if (waitMs === undefined || !(waitMs >= 0)) return {}
  return { retryAfterMs: Math.min(waitMs, maxRetryAfterMs) }
}
