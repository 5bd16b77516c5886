/**
 * A PostgreSQL of the test's own that can be restarted and crashed under its clients; it comes back
 * at the same port with what it had committed.
 */
import { mkdtempSync, readFileSync, realpathSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type Connection, connect } from "../../mesh/database.ts"
import { removeData, startEmbeddedPostgres } from "../../mesh/embedded-postgres.ts"

export interface BouncingPostgres extends AsyncDisposable {
  readonly adminUrl: string
  readonly port: number
  /** Ends it, leaves it down for that time, and starts it again. `immediate` is a crash. */
  bounce(how: "fast" | "immediate", downMs: number): Promise<void>
  /** Ends every connection but the administrator's; the server stays up. */
  terminateConnections(): Promise<number>
}

const log = { debug() {}, info() {}, warn() {} }

export async function startBouncingPostgres(options: {
  /** `false` where no crash of the machine is meant: nothing is forced to the disk itself. */
  readonly isDurable: boolean
}): Promise<BouncingPostgres> {
  const dataFolder = mkdtempSync(join(realpathSync(tmpdir()), "runwarden-adversity-"))
  const start = () => startEmbeddedPostgres({ dataFolder, log, isDurable: options.isDurable })
  let server = await start()
  const { adminUrl } = server
  await keepCommits(adminUrl)
  return {
    adminUrl,
    port: Number(new URL(adminUrl).port),
    async bounce(how, downMs) {
      if (how === "immediate") process.kill(postmasterOf(dataFolder), "SIGQUIT")
      await server[Symbol.asyncDispose]()
      await new Promise((resolve) => setTimeout(resolve, downMs))
      server = await start()
    },
    async terminateConnections() {
      await using admin: Connection = await connect(adminUrl)
      const rows = await admin.query<{ pid: number }>(
        `select pg_terminate_backend(pid) from pg_stat_activity
         where pid <> pg_backend_pid() and backend_type = 'client backend'
           and application_name like 'runwarden %'
           and application_name not in ('runwarden supervisor', 'runwarden adversity')`,
      )
      return rows.length
    },
    async [Symbol.asyncDispose]() {
      await server[Symbol.asyncDispose]()
      await removeData(dataFolder)
    },
  }
}

/** A commit outlives a crash of the server, forced to the disk or not. */
async function keepCommits(adminUrl: string): Promise<void> {
  await using admin = await connect(adminUrl)
  await admin.query("alter role all set synchronous_commit = on")
}

function postmasterOf(dataFolder: string): number {
  const [pid = ""] = readFileSync(join(dataFolder, "postgres", "postmaster.pid"), "utf8").split(
    "\n",
  )
  return Number(pid)
}
