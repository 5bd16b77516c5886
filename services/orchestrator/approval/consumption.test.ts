/** Using an approval up: the statement itself takes a valid, unused yes and nothing else. */
import { join } from "node:path"
import { afterAll, beforeAll, expect, it } from "vitest"
import { type Database, openDatabase, type Tx } from "../../../mesh/database.ts"
import { newId } from "../../../mesh/ids.ts"
import { testRuntime } from "../../../mesh/testing.ts"
import { Change } from "../change/change.ts"
import { createChangeStore } from "../change/change-store.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"
import { readSnapshot } from "../run/snapshot-store.ts"
import { findApproval } from "./approval-store.ts"

let orchestrator: Orchestrator
let database: Database

beforeAll(async () => {
  orchestrator = await startOrchestrator({ peers: createPeers() })
  const migrations = join(import.meta.dirname, "../migrations")
  const runtime = testRuntime("orchestrator")
  database = openDatabase(orchestrator.database, { runtime, migrations })
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await orchestrator[Symbol.asyncDispose]()
})

it.each<[string, Answered, "stored" | "stale"]>([
  ["takes a yes", {}, "stored"],
  ["takes it once", { isUsed: true }, "stale"],
  ["takes no yes to something else", { digest: "0".repeat(64) }, "stale"],
  ["takes no yes whose time is over", { expiresIn: "-1 second" }, "stale"],
  ["takes no no", { state: "rejected" }, "stale"],
  ["takes no yes that was superseded", { state: "superseded" }, "stale"],
  ["takes no yes that was given under other rules", { ruleVersion: "rules@1" }, "stale"],
  ["takes a delegate's yes", { delegation: "in force" }, "stored"],
  ["takes no yes by a delegation that was revoked", { delegation: "revoked" }, "stale"],
  ["takes no yes by a delegation that is over", { delegation: "over" }, "stale"],
])("%s", async (_, answered, outcome) => {
  const me = inWorkspace(orchestrator)
  const { workspaceId } = me
  const { runId } = await me.start([{ tool: "high.keyed", arguments: { a: 1 } }])
  const { approvalId } = await me.pendingApproval(runId)
  const [approval, snapshot] = await database.tenant(workspaceId, async (tx) => {
    const answeredId = await insertAnswered(tx, approvalId, answered)
    return [
      await findApproval(tx, workspaceId, answeredId),
      await readSnapshot(tx, workspaceId, { kind: "run", id: runId }),
    ] as const
  })
  if (approval === undefined || snapshot === undefined) throw new Error("nothing to use")
  const change = new Change(snapshot)
  change.consume(approval, answered.digest ?? approval.digest)
  expect(await createChangeStore(database, 10).store(change)).toMatchObject({ kind: outcome })
})

interface Answered {
  readonly state?: "approved" | "rejected" | "superseded"
  readonly isUsed?: boolean
  readonly expiresIn?: string
  /** The digest that is to be executed, where it is not the one that was approved. */
  readonly digest?: string
  /** The version of the rules under which it was asked, where it is not the active one. */
  readonly ruleVersion?: string
  /** Whether the yes was a delegate's, and what became of the delegation since. */
  readonly delegation?: "in force" | "revoked" | "over"
}

/** A copy of a pending approval that somebody has answered, for nobody may change what was asked. */
async function insertAnswered(tx: Tx, approvalId: string, answered: Answered): Promise<string> {
  const { state = "approved", isUsed = false, expiresIn = "1 hour" } = answered
  const { ruleVersion = "default@1", delegation } = answered
  const copy = newId()
  const delegationId = delegation === undefined ? null : await insertDelegation(tx, delegation)
  const names = await tx.query<{ readonly name: string }>(
    `select attname as name from pg_attribute
     where attrelid = 'approvals'::regclass and attnum > 0 and attgenerated = ''
       and not attisdropped`,
  )
  const values: Readonly<Record<string, string>> = {
    approval_id: "$2::uuid",
    state: "$3::text",
    decide_time: "now()",
    consume_time: "case when $4::boolean then now() end",
    binding: "$2::text",
    digest: "encode(sha256(convert_to($2::text, 'UTF8')), 'hex')",
    expire_time: "now() + $5::interval",
    rule_version: "$6::text",
    allows_delegation: "true",
    approve_count: "1",
  }
  const columns = names.map(({ name }) => name)
  await tx.query(
    `with copy as (
       insert into approvals (${columns}) select ${columns.map((name) => values[name] ?? name)}
       from approvals where approval_id = $1::uuid
       returning *
     )
     insert into approval_answers (workspace_id, approval_id, answer_index, actor_id, role, answer,
       comment, delegation_id, delegator_id, approval_number, requester_id,
       distinct_from_requester, approver_role, allows_delegation, allows_break_glass)
     select workspace_id, approval_id, 1, 'delegate', 3, 'approve', '', $7::uuid,
       case when $7::uuid is not null then 'delegator' end, 1, requester_id,
       distinct_from_requester, approver_role, allows_delegation, allows_break_glass
     from copy`,
    [approvalId, copy, state, isUsed, expiresIn, ruleVersion, delegationId],
  )
  return copy
}

async function insertDelegation(
  tx: Tx,
  standing: NonNullable<Answered["delegation"]>,
): Promise<string> {
  const delegationId = newId()
  await tx.query(
    `insert into delegations (workspace_id, delegation_id, delegator_id, delegate_id, comment,
       expire_time, revoke_time)
     values (runwarden.current_workspace(), $1::uuid, 'delegator', 'delegate', '',
       now() + $2::interval, case when $3::boolean then now() end)`,
    [delegationId, standing === "over" ? "-1 second" : "1 hour", standing === "revoked"],
  )
  return delegationId
}
