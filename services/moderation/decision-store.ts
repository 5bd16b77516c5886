import type { Database, Statement, Tx } from "../../mesh/database.ts"
import { type ActiveVersion, toActiveVersion, type VersionState } from "./policy-store.ts"

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
  /** The version that was active when it was stored; empty where it was the one that decided. */
  readonly replaced_by: string
}

/** A decision before it is stored. */
export type NewDecision = Omit<DecisionRow, "create_time" | "replaced_by">

/** A decision to store. */
export interface DecisionItem {
  readonly workspaceId: string
  readonly decision: NewDecision
  readonly createTime: Date
  /** One that was answered is stored in any case; any other only while its version is active. */
  readonly isAnswered: boolean
}

const columns = `decision_id, subject, verdict, categories, matched_rules, policy_version,
  content_digest, tool, run_id, step_index, latency_micros, failure, create_time, replaced_by`

/**
 * One statement for decisions of many workspaces. Which version is active is looked up in the same
 * snapshot, so that a version that was replaced never decides and no lookup has to come first. What
 * is stored already is left: the statement may be sent again where its outcome is not known.
 */
const insertStatement: Statement = {
  name: "insertDecisions",
  text: `
    with active as (
      select workspace.place, workspace.workspace_id,
        coalesce(policy.policy_version, $2::text) as policy_version,
        coalesce(policy.revision, 0) as revision
      from unnest($1::uuid[]) with ordinality as workspace (workspace_id, place)
      left join active_policies policy on policy.workspace_id = workspace.workspace_id
    ), stored as (
      insert into decisions
        (workspace_id, decision_id, subject, verdict, categories, matched_rules, policy_version,
         content_digest, tool, run_id, step_index, latency_micros, failure, create_time, replaced_by)
      select active.workspace_id, item.decision_id, item.subject, item.verdict, item.categories,
        item.matched_rules, item.policy_version, item.content_digest, item.tool, item.run_id,
        item.step_index, item.latency_micros, item.failure, to_timestamp(item.create_millis / 1000),
        case when active.policy_version = item.policy_version then '' else active.policy_version end
      from unnest($3::bigint[], $4::uuid[], $5::text[], $6::text[], $7::jsonb[], $8::jsonb[], $9::text[],
          $10::text[], $11::text[], $12::uuid[], $13::bigint[], $14::bigint[], $15::text[],
          $16::float8[], $17::boolean[])
        as item (place, decision_id, subject, verdict, categories, matched_rules,
          policy_version, content_digest, tool, run_id, step_index, latency_micros, failure,
          create_millis, is_answered)
      join active on active.place = item.place
      where item.is_answered or active.policy_version = item.policy_version
      on conflict do nothing
    )
    select policy_version, revision from active order by place`,
}

/**
 * Stores decisions in one transaction, and says by which version each of their workspaces is judged:
 * a decision that was not answered is stored if it was made by that one, and not at all otherwise.
 */
export async function insertDecisions(
  database: Database,
  items: readonly DecisionItem[],
  defaultVersion: string,
): Promise<ReadonlyMap<string, ActiveVersion>> {
  const places = new Map<string, number>()
  for (const { workspaceId } of items) {
    if (!places.has(workspaceId)) places.set(workspaceId, places.size + 1)
  }
  const workspaceIds = [...places.keys()]
  const of = <T>(read: (decision: NewDecision) => T) => items.map(({ decision }) => read(decision))
  const rows = await database.batch<VersionState>(workspaceIds, insertStatement, [
    workspaceIds,
    defaultVersion,
    items.map(({ workspaceId }) => places.get(workspaceId)),
    of((each) => each.decision_id),
    of((each) => each.subject),
    of((each) => each.verdict),
    of((each) => JSON.stringify(each.categories)),
    of((each) => JSON.stringify(each.matched_rules)),
    of((each) => each.policy_version),
    of((each) => each.content_digest),
    of((each) => each.tool),
    of((each) => each.run_id),
    of((each) => each.step_index),
    of((each) => each.latency_micros),
    of((each) => each.failure),
    items.map(({ createTime }) => createTime.getTime()),
    items.map(({ isAnswered }) => isAnswered),
  ])
  return new Map(
    rows.map((row, index) => [workspaceIds[index] ?? "", toActiveVersion(row)] as const),
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
