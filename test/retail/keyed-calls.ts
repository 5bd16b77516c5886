/**
 * Exactly one answer per idempotency key.
 *
 * 1. A call begins by taking its key, so that whoever comes second waits for the first to commit or
 *    to break off, and then finds its answer or the key free.
 * 2. The answer is stored in the transaction of the effect: both are there, or neither is. An error
 *    of the tool's own is an answer.
 * 3. A key that comes back with another tool or other arguments is refused and changes nothing.
 */
import { fromBinary, toBinary } from "@bufbuild/protobuf"
import {
  type ExecuteToolResponse,
  ExecuteToolResponseSchema,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import type { Tx } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"

export interface KeyedCall {
  readonly tool: string
  readonly idempotencyKey: string
  readonly argumentsDigest: string
}

type StoredCall = KeyedCall & { readonly response: Uint8Array }

/** Runs the work where the key is new, and gives the stored answer where it is not. */
export async function answerOnce(
  tx: Tx,
  call: KeyedCall,
  work: () => Promise<ExecuteToolResponse>,
): Promise<ExecuteToolResponse> {
  const isNew = await takeKey(tx, call)
  if (!isNew) return storedAnswer(tx, call) // (2)
  const response = await work()
  await tx.query(
    `update keyed_calls set response = $2::bytea
     where workspace_id = runwarden.current_workspace() and idempotency_key = $1::text`,
    [call.idempotencyKey, toBinary(ExecuteToolResponseSchema, response)],
  )
  return response
}

/** What a call was answered; undefined where nothing is stored (it may still be on its way). */
export async function findAnswer(
  tx: Tx,
  { tool, idempotencyKey }: Pick<KeyedCall, "tool" | "idempotencyKey">,
): Promise<ExecuteToolResponse | undefined> {
  const stored = await findCall(tx, idempotencyKey)
  if (stored === undefined || stored.tool !== tool) return undefined
  return fromBinary(ExecuteToolResponseSchema, stored.response)
}

async function takeKey(tx: Tx, call: KeyedCall): Promise<boolean> {
  const rows = await tx.query(
    `insert into keyed_calls (workspace_id, idempotency_key, tool, arguments_digest)
     values (runwarden.current_workspace(), $1::text, $2::text, $3::text)
     on conflict do nothing
     returning idempotency_key`,
    [call.idempotencyKey, call.tool, call.argumentsDigest],
  )
  return rows.length === 1
}

async function storedAnswer(tx: Tx, call: KeyedCall): Promise<ExecuteToolResponse> {
  const stored = await findCall(tx, call.idempotencyKey)
  const isSame = stored?.tool === call.tool && stored.argumentsDigest === call.argumentsDigest
  if (stored === undefined || !isSame) {
    throw new RunwardenError("IDEMPOTENCY_CONFLICT", { tool: `retail/${call.tool}` })
  }
  return fromBinary(ExecuteToolResponseSchema, stored.response)
}

function findCall(tx: Tx, idempotencyKey: string): Promise<StoredCall | undefined> {
  return tx.maybe<StoredCall>(
    `select tool, idempotency_key as "idempotencyKey", arguments_digest as "argumentsDigest",
       response
     from keyed_calls
     where workspace_id = runwarden.current_workspace() and idempotency_key = $1::text`,
    [idempotencyKey],
  )
}
