/** What an administrator does to the orchestrator's database while nobody is connected to it. */
import { connect } from "../../mesh/database.ts"
import type { Cluster } from "./cluster.ts"

const name = "orchestrator"
const snapshot = "orchestrator_snapshot"

/** Kills the orchestrators, runs the statements on a database that nobody can reach, starts them again. */
export async function onIdleDatabase(
  cluster: Cluster,
  statements: readonly string[],
): Promise<void> {
  await Promise.all(cluster.orchestrators.map((each) => each.stop()))
  await using admin = await connect(cluster.postgres.adminUrl, { name: "adversity" })
  await admin.query(`alter database "${name}" with allow_connections false`)
  await admin.query(
    `select pg_terminate_backend(pid) from pg_stat_activity where datname = '${name}'`,
  )
  for (const statement of statements) await admin.query(statement)
  await admin.query(`alter database "${name}" with allow_connections true`)
  for (const each of cluster.orchestrators) each.start()
}

/** Keeps the database as it is now, beside itself. */
export function takeSnapshot(cluster: Cluster): Promise<void> {
  return onIdleDatabase(cluster, [
    `drop database if exists "${snapshot}"`,
    `create database "${snapshot}" template "${name}" owner "${name}_owner"`,
    `revoke all on database "${snapshot}" from public`,
    `grant connect on database "${snapshot}" to "${name}_app", "${name}_worker"`,
  ])
}

/** Puts the snapshot in the place of the database, which is gone. */
export function restoreSnapshot(cluster: Cluster): Promise<void> {
  return onIdleDatabase(cluster, [
    `drop database "${name}"`,
    `alter database "${snapshot}" rename to "${name}"`,
  ])
}
