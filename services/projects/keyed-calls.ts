/**
 * Exactly one answer per idempotency key.
 *
 * Invariants:
 * 1. The answer is stored in the transaction of the effect: both are there, or neither is.
 * 2. Whoever stores first is right; everybody else with the key answers the same, an error included.
 * 3. A key that comes back with other arguments is refused and changes nothing.
 */
import { create, fromBinary, type MessageInitShape, toBinary } from "@bufbuild/protobuf"
import {
  type ExecuteToolResponse,
  ExecuteToolResponseSchema,
  type ToolErrorSchema,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { findKeyedCall, insertKeyedCall, type KeyedCall } from "./keyed-call-store.ts"

export type CallKey = Omit<KeyedCall, "response"> & { readonly workspaceId: string }

/**
 * Runs the work once per key. A failure that is the tool's own answer is stored as such; any other
 * leaves nothing behind and may be tried again.
 */
export async function answerKeyed(
  database: Database,
  key: CallKey,
  work: (tx: Tx) => Promise<ExecuteToolResponse>,
  signal: AbortSignal,
): Promise<ExecuteToolResponse> {
  try {
    return await database.tenant(
      key.workspaceId,
      async (tx) => {
        const response = await work(tx)
        if (!(await store(tx, key, response))) throw new KeyTaken()
        return response
      },
      { signal, name: `keyed ${key.tool}` },
    )
  } catch (error) {
    // A replay may well fail, as what it asks for is done: the stored answer comes first.
    return database.tenant(key.workspaceId, (tx) => settle(tx, key, error), { signal })
  }
}

/** What is known of a call; undefined where nothing is stored (it may still be in flight). */
export async function findAnswer(
  database: Database,
  key: Pick<CallKey, "workspaceId" | "tool" | "idempotencyKey">,
  signal: AbortSignal,
): Promise<ExecuteToolResponse | undefined> {
  const stored = await database.tenant(key.workspaceId, (tx) => findKeyedCall(tx, key), { signal })
  return stored === undefined ? undefined : fromBinary(ExecuteToolResponseSchema, stored.response)
}

/** The tool's own answer to a failure of the domain; undefined for a fault that is none of that. */
export function toolErrorOf(error: unknown): MessageInitShape<typeof ToolErrorSchema> | undefined {
  if (!(error instanceof RunwardenError)) return undefined
  const { reason, message, metadata } = error
  switch (reason) {
    case "NOT_FOUND":
      return { reason: `${metadata.resource}_not_found`, message, metadata: { ...metadata } }
    case "ILLEGAL_TRANSITION":
    case "ETAG_MISMATCH":
    case "INVALID_REQUEST":
    case "INVALID_PAGE_TOKEN":
      return { reason: reason.toLowerCase(), message, metadata: { ...metadata } }
    default:
      return undefined
  }
}

async function settle(tx: Tx, key: CallKey, cause: unknown): Promise<ExecuteToolResponse> {
  const found = await replay(tx, key)
  if (found !== undefined) return found
  const error = toolErrorOf(cause)
  if (error === undefined) throw cause
  const response = create(ExecuteToolResponseSchema, { outcome: { case: "error", value: error } })
  if (await store(tx, key, response)) return response
  const winner = await replay(tx, key)
  if (winner === undefined) throw cause
  return winner
}

async function replay(tx: Tx, key: CallKey): Promise<ExecuteToolResponse | undefined> {
  const stored = await findKeyedCall(tx, key)
  if (stored === undefined) return undefined
  if (stored.argumentsDigest !== key.argumentsDigest) {
    throw new RunwardenError("IDEMPOTENCY_CONFLICT", { tool: `projects/${key.tool}` })
  }
  return fromBinary(ExecuteToolResponseSchema, stored.response)
}

function store(tx: Tx, key: CallKey, response: ExecuteToolResponse): Promise<boolean> {
  return insertKeyedCall(tx, { ...key, response: toBinary(ExecuteToolResponseSchema, response) })
}

class KeyTaken extends Error {
  override readonly name = "KeyTaken"
}
