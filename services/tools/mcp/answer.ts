/**
 * What an MCP server answers, as the contract of providers has it. Pure.
 *
 * 1. Structured content is the result where the definition has an output schema: that is what the
 *    schema is of. Otherwise the result has the blocks of content as they came.
 * 2. An error counts as "did not run" only where the protocol keeps its code for that. Everything
 *    else may have taken effect.
 */
import { create, type JsonObject } from "@bufbuild/protobuf"
import { Code, ConnectError } from "@connectrpc/connect"
import {
  type CallToolResult,
  ProtocolError,
  ProtocolErrorCode,
  SdkError,
  SdkErrorCode,
} from "@modelcontextprotocol/client"
import {
  type ExecuteToolResponse,
  ExecuteToolResponseSchema,
} from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"

const maxMessageLength = 4_096

export function toResponse(answer: CallToolResult, hasOutputSchema: boolean): ExecuteToolResponse {
  if (answer.isError === true) {
    const message = textOf(answer).slice(0, maxMessageLength)
    return create(ExecuteToolResponseSchema, {
      outcome: { case: "error", value: { reason: "tool_failed", message } },
    })
  }
  return create(ExecuteToolResponseSchema, {
    outcome: { case: "result", value: resultOf(answer, hasOutputSchema) },
  })
}

function resultOf(
  { content, structuredContent }: CallToolResult,
  hasOutputSchema: boolean,
): JsonObject {
  const result =
    hasOutputSchema && structuredContent !== undefined // (1)
      ? structuredContent
      : { content, ...(structuredContent === undefined ? {} : { structuredContent }) }
  return result as JsonObject
}

function textOf({ content }: CallToolResult): string {
  const text = content.flatMap((block) => (block.type === "text" ? [block.text] : [])).join("\n")
  return text === "" ? "The tool says that it failed, and not why." : text
}

/** Codes that a server answers with before it runs anything. */
const refusals: ReadonlySet<number> = new Set([
  ProtocolErrorCode.ParseError,
  ProtocolErrorCode.InvalidRequest,
  ProtocolErrorCode.MethodNotFound,
  ProtocolErrorCode.InvalidParams,
])

/** The status of a call that was sent and failed. */
export function statusOf(error: unknown): ConnectError {
  if (error instanceof ConnectError) return error
  return new ConnectError(wordOf(error), codeOf(error), undefined, undefined, error)
}

function codeOf(error: unknown): Code {
  if (error instanceof ProtocolError) {
    return refusals.has(error.code) ? Code.InvalidArgument : Code.Unknown // (2)
  }
  if (error instanceof SdkError) {
    if (error.code === SdkErrorCode.RequestTimeout) return Code.DeadlineExceeded
    if (error.code === SdkErrorCode.InvalidResult) return Code.DataLoss
    return Code.Unavailable
  }
  return error instanceof Error && error.name === "AbortError" ? Code.Canceled : Code.Unavailable
}

/** Says nothing that the server wrote: it goes to logs and callers. */
function wordOf(error: unknown): string {
  if (error instanceof ProtocolError) return `the MCP server answered with error ${error.code}`
  if (error instanceof SdkError) return `the MCP server did not answer: ${error.code.toLowerCase()}`
  return "the MCP server did not answer"
}
