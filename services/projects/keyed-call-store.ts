import type { Tx } from "../../mesh/database.ts"

export interface KeyedCall {
  readonly tool: string
  readonly idempotencyKey: string
  readonly argumentsDigest: string
  /** An encoded ExecuteToolResponse. */
  readonly response: Uint8Array
}

/** Stores the answer of a keyed call; false where the key has one already. */
export async function insertKeyedCall(tx: Tx, call: KeyedCall): Promise<boolean> {
  // Waits for a transaction that is writing the same key, and sees whether it committed.
  const rows = await tx.query(
    `insert into keyed_calls (workspace_id, tool, idempotency_key, arguments_digest, response)
     values (runwarden.current_workspace(), $1::text, $2::text, $3::text, $4::bytea)
     on conflict do nothing
     returning tool`,
    [call.tool, call.idempotencyKey, call.argumentsDigest, call.response],
  )
  return rows.length === 1
}

export function findKeyedCall(
  tx: Tx,
  key: Pick<KeyedCall, "tool" | "idempotencyKey">,
): Promise<KeyedCall | undefined> {
  return tx.maybe<KeyedCall>(
    `select tool, idempotency_key as "idempotencyKey", arguments_digest as "argumentsDigest",
       response
     from keyed_calls
     where workspace_id = runwarden.current_workspace()
       and tool = $1::text and idempotency_key = $2::text`,
    [key.tool, key.idempotencyKey],
  )
}
