import type { Connection } from "./database.ts"
import { type MigrationSource, SchemaError, verifyMigrated } from "./migrations.ts"

/** The two roles that serve, each on a connection of its own. */
export interface ServingRoles {
  readonly app: Connection
  readonly worker: Connection
}

type RoleKind = keyof ServingRoles

interface RoleRow {
  readonly name: string
  readonly superuser: boolean
  readonly bypass: boolean
  readonly owned: readonly string[]
}

interface RelationRow {
  readonly name: string
  readonly kind: string
  readonly enabled: boolean
  readonly forced: boolean
  readonly invoker: boolean
  readonly reachable: boolean
}

interface PolicyRow {
  readonly table: string
  readonly name: string
  readonly open_to_all: boolean
  readonly applies: boolean
  readonly permissive: boolean
  readonly conditions: string
}

/** Tables with no content, which a worker may look through for all workspaces. */
const claimTable = /_(due|claims)$/

/**
 * Refuses to serve from a database whose second wall has a hole: a role that row-level security
 * does not hold, a tenant table (one with a workspace_id) on which it is off, not forced, without a
 * policy for a role that can reach it, or with a policy that does not name the workspace; or a schema
 * older than the code. Lists every finding.
 */
export async function verifySchema(roles: ServingRoles, source: MigrationSource): Promise<void> {
  await verifyMigrated(roles.app, source)
  const findings = [
    ...(await inspect("app", roles.app)),
    ...(await inspect("worker", roles.worker)),
  ]
  if (findings.length === 0) return
  throw new SchemaError(
    `the database is not safe to serve from:\n- ${unique(findings).join("\n- ")}`,
  )
}

async function inspect(kind: RoleKind, connection: Connection): Promise<readonly string[]> {
  const [role] = await connection.query<RoleRow>(roleSql)
  const relations = await connection.query<RelationRow>(relationSql)
  const policies = await connection.query<PolicyRow>(policySql)
  if (role === undefined) return [`the ${kind} role does not exist`]
  return [
    ...roleFindings(role),
    ...relations.flatMap((relation) => {
      const own = policies.filter((policy) => policy.table === relation.name)
      return [...relationFindings(relation), ...policyFindings(kind, role.name, relation, own)]
    }),
  ]
}

function roleFindings(role: RoleRow): readonly string[] {
  const findings: string[] = []
  if (role.superuser) findings.push(`role ${role.name} is a superuser: alter role … nosuperuser`)
  if (role.bypass)
    findings.push(`role ${role.name} bypasses row security: alter role … nobypassrls`)
  if (role.owned.length > 0) {
    findings.push(
      `role ${role.name} owns ${role.owned.join(", ")}: alter table … owner to the owner`,
    )
  }
  return findings
}

function relationFindings(relation: RelationRow): readonly string[] {
  if (relation.kind === "v") {
    return relation.invoker ? [] : [`view ${relation.name} needs security_invoker = true`]
  }
  if (relation.kind === "m") {
    return relation.reachable
      ? [`materialized view ${relation.name} cannot be held by policies`]
      : []
  }
  const findings: string[] = []
  if (!relation.enabled) findings.push(`table ${relation.name} needs enable row level security`)
  if (!relation.forced) findings.push(`table ${relation.name} needs force row level security`)
  return findings
}

function policyFindings(
  kind: RoleKind,
  role: string,
  relation: RelationRow,
  policies: readonly PolicyRow[],
): readonly string[] {
  if (relation.kind === "v" || relation.kind === "m") return []
  const findings = policies
    .filter((policy) => policy.open_to_all)
    .map((policy) => `policy ${policy.name} on ${relation.name} is for PUBLIC: name its role`)
  const own = policies.filter((policy) => policy.applies && policy.permissive)
  if (relation.reachable && own.length === 0) {
    findings.push(`table ${relation.name} has no policy for role ${role}, which may reach it`)
  }
  if (kind === "worker" && claimTable.test(relation.name)) return findings
  const setting = kind === "app" ? "current_workspace()" : "current_workspaces()"
  for (const policy of own) {
    if (policy.conditions.split("\n").every((text) => text.includes(`runwarden.${setting}`)))
      continue
    findings.push(`policy ${policy.name} on ${relation.name} does not ask for runwarden.${setting}`)
  }
  return findings
}

function unique(texts: readonly string[]): readonly string[] {
  return [...new Set(texts)]
}

// A role can become any role that it is a member of, so the strongest of them counts.
const roleSql = `
  select current_user::text as name,
    coalesce(bool_or(r.rolsuper), false) as superuser,
    coalesce(bool_or(r.rolbypassrls), false) as bypass,
    array(
      select c.oid::regclass::text from pg_class c
      where c.relkind in ('r', 'p', 'v', 'm') and c.relnamespace <> 'pg_catalog'::regnamespace
        and c.relnamespace <> 'information_schema'::regnamespace
        and c.relnamespace::regnamespace::text not like 'pg\\_%'
        and (c.relowner = current_user::regrole or pg_has_role(current_user, c.relowner, 'member'))
        and not (select rolsuper from pg_roles where rolname = current_user)
      order by 1 limit 5
    ) as owned
  from pg_roles r
  where r.rolname = current_user
    or (pg_has_role(current_user, r.oid, 'member')
        and not (select rolsuper from pg_roles where rolname = current_user))`

const relationSql = `
  select c.oid::regclass::text as name, c.relkind::text as kind,
    c.relrowsecurity as enabled, c.relforcerowsecurity as forced,
    coalesce('security_invoker=true' = any (c.reloptions), false) as invoker,
    has_table_privilege(c.oid, 'select,insert,update,delete') as reachable
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attname = 'workspace_id' and not a.attisdropped
  where c.relkind in ('r', 'p', 'v', 'm')
    and c.relnamespace::regnamespace::text not like 'pg\\_%'
    and c.relnamespace::regnamespace::text <> 'information_schema'
  order by 1`

// A policy without a check uses its condition for both; polqual is null for INSERT policies only.
const policySql = `
  select p.polrelid::regclass::text as table, p.polname::text as name,
    0 = any (p.polroles) as open_to_all,
    exists (select from unnest(p.polroles) as granted (oid)
      where granted.oid <> 0 and pg_has_role(current_user, granted.oid, 'usage')) as applies,
    p.polpermissive as permissive,
    concat_ws(e'\\n',
      replace(pg_get_expr(p.polqual, p.polrelid), e'\\n', ' '),
      replace(pg_get_expr(p.polwithcheck, p.polrelid), e'\\n', ' ')) as conditions
  from pg_policy p`
