import { createHash, randomBytes } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type Connection, connect, type DatabaseConfig } from "./database.ts"
import type { ServiceName } from "./identity.ts"

/** The password of a role, the same every time it is asked for. */
export type PasswordOf = (role: string) => string

/** How databases are provisioned. */
export interface ProvisionOptions {
  readonly passwordOf: PasswordOf
  readonly poolSize?: number
}

const roleKinds = ["owner", "app", "worker"] as const

/** Serialises those who provision one server at once. */
const provisionLock = 7_401_926_553

/**
 * Makes, where they are missing, a database per service and its three roles, `<service>_owner`,
 * `<service>_app` and `<service>_worker`. Only the owner may create anything in it, only these three
 * may connect to it. Works on any server of which `adminUrl` may create databases and roles.
 */
export async function provisionDatabases<Name extends ServiceName>(
  adminUrl: string,
  services: readonly Name[],
  options: ProvisionOptions,
): Promise<Record<Name, DatabaseConfig>> {
  await using admin = await connect(adminUrl)
  await admin.query("select pg_advisory_lock($1::bigint)", [provisionLock])
  await provisionRoles(admin, services, options.passwordOf)
  const known = await admin.query<{ datname: string }>("select datname from pg_database")
  const names = new Set(known.map((row) => row.datname))
  const missing = services.filter((service) => !names.has(service))
  for (const service of missing) await becomeOwner(admin, service)
  // Copying a template is the server's work, and it can do several at once.
  await Promise.all(
    missing.map(async (service) => {
      await using own = await connect(adminUrl)
      await copyDatabase(own, service, service)
    }),
  )
  const configs = services.map((service) => [
    service,
    databaseConfig(adminUrl, service, { ...options, database: service }),
  ])
  return Object.fromEntries(configs) as Record<Name, DatabaseConfig>
}

/** Makes the roles of these services, and gives them these passwords. */
export async function provisionRoles(
  admin: Connection,
  services: readonly ServiceName[],
  passwordOf: PasswordOf,
): Promise<void> {
  const known = await admin.query<{ rolname: string }>("select rolname from pg_roles")
  const names = new Set(known.map((row) => row.rolname))
  // Stretching is for passwords that people choose; ours are 192 random bits.
  await admin.query(
    "select set_config(name, '1', false) from pg_settings where name = 'scram_iterations'",
  )
  const statements = services.flatMap((service) =>
    roleKinds.map((kind) => {
      const role = `${service}_${kind}`
      // Only a superuser may say of a role that it is none; the schema guard refuses a strong one.
      const what = names.has(role)
        ? `alter role ${quote(role)}`
        : `create role ${quote(role)} login nosuperuser nocreatedb nocreaterole nobypassrls`
      return `${what}
        password '${passwordOf(role).replaceAll("'", "''")}'`
    }),
  )
  await admin.query(statements.join(";"))
}

/** Makes a database of a service, empty or as a copy of a template. */
export async function createDatabase(
  admin: Connection,
  service: ServiceName,
  database: string,
  template?: string,
): Promise<void> {
  await becomeOwner(admin, service)
  await copyDatabase(admin, service, database, template)
}

/** An administrator who is no superuser must be a member of the role to give it a database. */
async function becomeOwner(admin: Connection, service: ServiceName): Promise<void> {
  await admin.query(`do $$ begin
    if not (select rolsuper from pg_roles where rolname = current_user) then
      grant ${quote(`${service}_owner`)} to current_user;
    end if;
  end $$`)
}

async function copyDatabase(
  admin: Connection,
  service: ServiceName,
  database: string,
  template = "template1",
): Promise<void> {
  const [owner, app, worker] = roleKinds.map((kind) => quote(`${service}_${kind}`))
  await admin.query(`create database ${quote(database)} owner ${owner} template ${quote(template)}`)
  await admin.query(`revoke all on database ${quote(database)} from public;
    grant connect on database ${quote(database)} to ${app}, ${worker}`)
}

/** The URLs of a service's three roles on the server of `adminUrl`. */
export function databaseConfig(
  adminUrl: string,
  service: ServiceName,
  options: ProvisionOptions & { readonly database: string },
): Required<DatabaseConfig> {
  const url = (kind: (typeof roleKinds)[number]) => {
    const target = new URL(adminUrl)
    target.username = `${service}_${kind}`
    target.password = encodeURIComponent(options.passwordOf(`${service}_${kind}`))
    target.pathname = `/${options.database}`
    return target.href
  }
  const poolSize = options.poolSize ?? 10
  return { appUrl: url("app"), workerUrl: url("worker"), ownerUrl: url("owner"), poolSize }
}

/** The passwords that a data folder keeps, drawn at random when they are first asked for. */
export function readPasswords(dataFolder: string): PasswordOf {
  const file = join(dataFolder, "role-secret")
  if (!existsSync(file)) {
    mkdirSync(dataFolder, { recursive: true })
    writeFileSync(file, randomBytes(24).toString("base64url"), { mode: 0o600 })
  }
  return derivedPasswords(readFileSync(file, "utf8"))
}

/** Passwords made from one secret: whoever has it need not be told of every role. */
export function derivedPasswords(secret: string): PasswordOf {
  return (role) => createHash("sha256").update(`${secret} ${role}`).digest("base64url").slice(0, 32)
}

function quote(name: string): string {
  return `"${name.replaceAll('"', '""')}"`
}
