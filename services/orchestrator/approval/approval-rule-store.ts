import type { Tx } from "../../../mesh/database.ts"

/** A stored version; without rules in lists. */
export interface RuleVersionRow {
  readonly version: number
  readonly description: string
  readonly digest: string
  readonly creatorId: string
  readonly createTime: Date
}

/** A stored version with its rules, as Protobuf JSON. */
export interface FullRuleVersionRow extends RuleVersionRow {
  readonly rules: string
}

/** By which version a workspace asks. */
export interface ActiveRow {
  readonly ruleVersion: string
  readonly revision: number
  readonly activatorId: string
  readonly updateTime: Date
}

export interface NewRuleVersion {
  readonly description: string
  readonly rules: string
  readonly digest: string
  readonly creatorId: string
}

const columns = `version, description, digest, creator_id as "creatorId",
  create_time as "createTime"`
const activeColumns = `rule_version as "ruleVersion", revision, activator_id as "activatorId",
  update_time as "updateTime"`

/** Stores the next version. Creations in one workspace wait for each other. */
export async function insertRuleVersion(
  tx: Tx,
  workspaceId: string,
  version: NewRuleVersion,
): Promise<RuleVersionRow> {
  return tx.one<RuleVersionRow>(
    `with next as (
       insert into approval_rule_books as book (workspace_id, last_version) values ($1::uuid, 1)
       on conflict (workspace_id) do update set last_version = book.last_version + 1
       returning last_version
     )
     insert into approval_rule_versions
       (workspace_id, version, description, rules, digest, creator_id)
     select $1::uuid, last_version, $2::text, $3::text, $4::text, $5::text from next
     returning ${columns}`,
    [workspaceId, version.description, version.rules, version.digest, version.creatorId],
  )
}

/** One version with its rules. */
export async function findRuleVersion(
  tx: Tx,
  workspaceId: string,
  version: number,
): Promise<FullRuleVersionRow | undefined> {
  return tx.maybe<FullRuleVersionRow>(
    `select ${columns}, rules from approval_rule_versions
     where workspace_id = $1::uuid and version = $2::integer`,
    [workspaceId, version],
  )
}

/** A page of versions, newest first, without rules. */
export async function listRuleVersions(
  tx: Tx,
  workspaceId: string,
  page: { readonly before: number | undefined; readonly limit: number },
): Promise<readonly RuleVersionRow[]> {
  return tx.query<RuleVersionRow>(
    `select ${columns} from approval_rule_versions
     where workspace_id = $1::uuid and ($2::integer is null or version < $2::integer)
     order by version desc limit $3::integer`,
    [workspaceId, page.before ?? null, page.limit],
  )
}

/** The activation of a workspace; undefined where it never activated a version. */
export async function findActiveRules(tx: Tx, workspaceId: string): Promise<ActiveRow | undefined> {
  return tx.maybe<ActiveRow>(
    `select ${activeColumns} from approval_rule_books
     where workspace_id = $1::uuid and revision > 0`,
    [workspaceId],
  )
}

/**
 * Activates a version (null: the default), and keeps that it was. Undefined where `revision` is
 * given and is not the current one (0: never activated).
 */
export async function activateRules(
  tx: Tx,
  workspaceId: string,
  change: {
    readonly version: number | null
    readonly activatorId: string
    readonly revision: number | undefined
  },
): Promise<ActiveRow | undefined> {
  return tx.maybe<ActiveRow>(
    `with active as (
       insert into approval_rule_books as book
         (workspace_id, active_version, revision, activator_id, update_time)
       select $1::uuid, $2::integer, 1, $3::text, now()
       where coalesce($4::bigint, 0) = 0
         or exists (select from approval_rule_books where workspace_id = $1::uuid)
       on conflict (workspace_id) do update
         set active_version = excluded.active_version, revision = book.revision + 1,
           activator_id = excluded.activator_id, update_time = now()
         where $4::bigint is null or book.revision = $4::bigint
       returning *
     ), kept as (
       insert into approval_rule_activations (workspace_id, revision, rule_version, activator_id)
       select workspace_id, revision, rule_version, activator_id from active
     )
     select ${activeColumns} from active`,
    [workspaceId, change.version, change.activatorId, change.revision ?? null],
  )
}

/** The active version with its rules, null where it is the default; and how many approvals wait. */
export async function findBook(
  tx: Tx,
  workspaceId: string,
): Promise<{
  readonly ruleVersion: string | null
  readonly rules: string | null
  readonly open: number
}> {
  return tx.one(
    `select version.rule_version as "ruleVersion", version.rules,
       coalesce((select open from approval_gauges where workspace_id = $1::uuid), 0) as open
     from (select $1::uuid as workspace_id) here
     left join lateral (
       select book.rule_version, active.rules
       from approval_rule_books book join approval_rule_versions active
         on active.workspace_id = book.workspace_id and active.version = book.active_version
       where book.workspace_id = here.workspace_id) version on true`,
    [workspaceId],
  )
}
