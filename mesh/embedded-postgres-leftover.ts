import { spawnSync } from "node:child_process"
import { existsSync, readFileSync, readlinkSync, realpathSync, rmSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { connect } from "./database.ts"

/** The advisory lock that a supervisor holds as long as it lives. */
export const supervisorLock = 7_401_926_552

const waitMs = 10_000

/**
 * Makes a data folder ready for a new server. A server that still runs there without a supervisor is
 * stopped; one with a supervisor is an error; a process that only inherited the number in the stale
 * lock file is left alone and the file removed.
 */
export async function clearLeftover(data: string, urlOf: (port: number) => string): Promise<void> {
  const file = join(data, "postmaster.pid")
  const lines = existsSync(file) ? readFileSync(file, "utf8").split("\n") : []
  const pid = Number(lines[0])
  const port = Number(lines[3])
  if (!Number.isInteger(pid) || pid <= 0) return
  if (!isServerOf(pid, data)) {
    rmSync(file, { force: true })
    return
  }
  for (const end = performance.now() + waitMs; performance.now() < end && isServerOf(pid, data); ) {
    const state = await supervision(urlOf(port))
    if (state === "supervised") {
      throw new Error(
        `Runwarden is running on ${data} already (PostgreSQL process ${pid}); stop it first`,
      )
    }
    // Starting or stopping: it tells when asked again.
    if (state === "orphaned") kill(pid, "SIGINT")
    await sleep(100)
  }
  if (isServerOf(pid, data)) kill(pid, "SIGQUIT")
  while (isServerOf(pid, data)) await sleep(50)
}

async function supervision(url: string): Promise<"supervised" | "orphaned" | "unreachable"> {
  try {
    await using connection = await connect(url, { name: "leftover" })
    const [row] = await connection.query<{ free: boolean }>(
      "select pg_try_advisory_lock($1::bigint) as free",
      [supervisorLock],
    )
    return row?.free === true ? "orphaned" : "supervised"
  } catch {
    return "unreachable"
  }
}

/** A process number alone proves nothing: after a restart it may be anybody's. */
function isServerOf(pid: number, data: string): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    return error instanceof Error && Reflect.get(error, "code") === "EPERM"
  }
  if (process.platform === "linux") {
    try {
      return readlinkSync(`/proc/${pid}/cwd`) === realpathSync(data)
    } catch {
      return false
    }
  }
  const { stdout } = spawnSync("ps", ["-o", "comm=", "-p", String(pid)], { encoding: "utf8" })
  return stdout?.includes("postgres") ?? false
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch {
    // It has ended by itself.
  }
}
