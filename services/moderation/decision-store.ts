import type { Tx } from "../../mesh/database.ts"

/** A rule that matched, as it is stored. */
export interface StoredMatch {
  readonly rule_id: string
  readonly verdict: "flagged" | "blocked"
  readonly category: string
  readonly pointer: string
  readonly description: string
}

/** A decision as it is stored. */
export interface DecisionRow {
  readonly decision_id: string
  readonly subject: string
  readonly verdict: "allowed" | "flagged" | "blocked"
  readonly categories: Readonly<Record<string, number>>
  readonly matched_rules: readonly StoredMatch[]
  readonly policy_version: string
  readonly content_digest: string
  readonly tool: string
  readonly run_id: string
  readonly step_index: number | string | bigint | null
  readonly latency_micros: number | string | bigint
  readonly failure: string
  readonly create_time: Date
}

/** A decision before it is stored. */
export type NewDecision = Omit<DecisionRow, "create_time">

const columns = `decision_id, subject, verdict, categories, matched_rules, policy_version,
  content_digest, tool, run_id, step_index, latency_micros, failure, create_time`

/** Whether the decision was stored, and by which version the workspace is judged. */
export interface InsertOutcome {
  readonly active: string
  /** Null where the decision was made by another version than the active one, and so not stored. */
  readonly create_time: Date | null
}

/**
 * Stores a decision, if the version that made it is still the one that judges the workspace: a
 * version that was just replaced never decides, and no lookup has to come first.
 */
export async function insertDecision(
  tx: Tx,
  workspaceId: string,
  decision: NewDecision,
  defaultVersion: string,
): Promise<InsertOutcome> {
  return tx.one<InsertOutcome>(
    `with active as (
       select coalesce(
         (select policy_version from active_policies where workspace_id = $1::uuid),
         $13::text
       ) as version
     ), stored as (
       insert into decisions
         (workspace_id, decision_id, subject, verdict, categories, matched_rules, policy_version,
          content_digest, tool, run_id, step_index, latency_micros, failure)
       select $1::uuid, $2::uuid, $3::text, $4::text, $5::jsonb, $6::jsonb, $7::text,
         $8::text, $9::text, $10::uuid, $11::bigint, $12::bigint, $14::text
       from active where active.version = $7::text
       returning create_time
     )
     select active.version as active, stored.create_time
     from active left join stored on true`,
    [
      workspaceId,
      decision.decision_id,
      decision.subject,
      decision.verdict,
      JSON.stringify(decision.categories),
      JSON.stringify(decision.matched_rules),
      decision.policy_version,
      decision.content_digest,
      decision.tool,
      decision.run_id,
      decision.step_index,
      decision.latency_micros,
      defaultVersion,
      decision.failure,
    ],
  )
}

/** One decision. */
export async function findDecision(
  tx: Tx,
  workspaceId: string,
  decisionId: string,
): Promise<DecisionRow | undefined> {
  return tx.maybe<DecisionRow>(
    `select ${columns} from decisions where workspace_id = $1::uuid and decision_id = $2::uuid`,
    [workspaceId, decisionId],
  )
}

/** A page of decisions, newest first. */
export async function listDecisions(
  tx: Tx,
  workspaceId: string,
  query: {
    readonly verdict: string
    readonly runId: string
    readonly before: string | undefined
    readonly limit: number
  },
): Promise<readonly DecisionRow[]> {
  const conditions = ["workspace_id = $1::uuid"]
  const values: unknown[] = [workspaceId, query.limit]
  const add = (condition: string, value: string) => {
    values.push(value)
    conditions.push(condition.replace("?", `$${values.length}`))
  }
  if (query.verdict !== "") add("verdict = ?::text", query.verdict)
  if (query.runId !== "") add("run_id = ?::uuid", query.runId)
  if (query.before !== undefined) add("decision_id < ?::uuid", query.before)
  return tx.query<DecisionRow>(
    `select ${columns} from decisions where ${conditions.join(" and ")}
     order by decision_id desc limit $2::integer`,
    values,
  )
}
