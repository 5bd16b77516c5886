/**
 * One call of a provider, and what its answer or its silence means. Which status proves that a call
 * never ran is decided here and nowhere else: everything that is not on a list counts as lost.
 */
import type { JsonObject } from "@bufbuild/protobuf"
import { type CallOptions, Code, ConnectError } from "@connectrpc/connect"
import {
  type ExecuteToolResponse,
  Outcome,
  type ToolError,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { canonicalJson } from "../../mesh/canonical.ts"
import { RunwardenError, reasonOf } from "../../mesh/errors.ts"
import type { Answer, Report, ToolFailure } from "./ledger.ts"
import type { PinnedTool } from "./pinned-tool.ts"
import type { ProviderClient } from "./registry.ts"

/** What is sent: the tool's pinned version, the key, and the arguments that were digested. */
export interface ProviderCall {
  readonly client: ProviderClient
  readonly tool: PinnedTool
  readonly workspaceId: string
  readonly runId: string
  readonly idempotencyKey: string
  readonly arguments: JsonObject
}

/** How an answer is judged. */
export interface AnswerRules {
  readonly maxResultBytes: number
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
/** What grpc-js says of a call for which it never had a connection. */
const unconnected =
  /^((round_robin: )?No connection established\. Last error: |Name resolution failed for target )/

const maxReasonLength = 128
const maxMessageLength = 4_096
const maxMetadataBytes = 8_192

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
  return readResponse(response, call.tool, rules)
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
    return { kind: "completed", answer: readResponse(response, call.tool, rules) }
  } catch {
    return { kind: "unknown" }
  }
}

/** Sorts the error of a call by what it proves. */
export function answerOfError(error: unknown): Answer {
  const reason = reasonOf(error)
  const message = `The provider answered ${reason ?? "with an error"}.`
  if (reason === "SHUTTING_DOWN") return { kind: "unsent", message }
  if (isUnconnected(error)) {
    return { kind: "unsent", message: "No connection to the provider could be made." }
  }
  const code = codeOf(error)
  if (code === Code.ResourceExhausted) {
    // A limit by its own word is before the effect; without one it is the size of the answer.
    if (reason === "LIMIT_EXCEEDED") return { kind: "refused", message }
    return { kind: "oversized", message: "The result is larger than a message may be." }
  }
  if (code !== undefined && refusedCodes.has(code)) return { kind: "refused", message }
  return { kind: "lost", message }
}

function readResponse(response: ExecuteToolResponse, tool: PinnedTool, rules: AnswerRules): Answer {
  const { outcome } = response
  if (outcome.case === "error") return { kind: "tool_error", error: readToolError(outcome.value) }
  if (outcome.case !== "result") {
    return { kind: "lost", message: "The provider answered without an outcome." }
  }
  try {
    return readResult(outcome.value, tool, rules)
  } catch {
    return invalidResult("The result has no canonical JSON form, or is nested too deeply.")
  }
}

function readResult(result: JsonObject, tool: PinnedTool, rules: AnswerRules): Answer {
  const text = canonicalJson(result)
  const size = Buffer.byteLength(text)
  if (size > rules.maxResultBytes) {
    const message = `The result has ${size} bytes; ${rules.maxResultBytes} are taken.`
    return { kind: "unusable", reason: "result_too_large", message }
  }
  if (/(?<!\\)(?:\\\\)*\\u0000/.test(text))
    return invalidResult("The result holds a NUL character.")
  const fault = tool.faultOfResult(result)
  if (fault === undefined) return { kind: "result", result }
  return invalidResult(
    `The result breaks the output schema at "${fault.pointer}": ${fault.description}.`,
  )
}

function invalidResult(message: string): Answer {
  return { kind: "unusable", reason: "result_invalid", message: storable(message) }
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

/** A status of the own channel: a provider of the mesh puts a reason into each of its own. */
function isUnconnected(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if (!(cause instanceof ConnectError) || reasonOf(cause) !== undefined) continue
    return cause.code === Code.Unavailable && unconnected.test(cause.rawMessage)
  }
  return false
}
