/**
 * Owns: one PostgreSQL server as a child of this process, and the folder that its data live in.
 *
 * `absent → initialised → running → stopped`; a data folder outlives the process.
 *
 * 1. The server is in a process group of its own: Ctrl-C reaches us, and we stop it last.
 * 2. It ends with us, however we end: a watcher holds the other end of a pipe of ours.
 * 3. While we live we hold an advisory lock in it. Who finds a server without that lock has found a
 *    leftover, and may stop it; who finds the lock taken must leave it alone.
 * 4. Only this machine can connect, with a password that lies in the data folder for us alone.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { randomBytes } from "node:crypto"
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { createServer } from "node:net"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"
import type { Logger } from "pino"
import { type Connection, connect } from "./database.ts"
import { initialise } from "./embedded-postgres-init.ts"
import { clearLeftover, supervisorLock } from "./embedded-postgres-leftover.ts"
import { findPostgresBinaries, makeOwnFolder, type PostgresBinaries } from "./postgres-binaries.ts"

export { dataFolderFor } from "./embedded-postgres-init.ts"
export { provisionDatabases, readPasswords } from "./provision-databases.ts"

/** What a server is started with. */
export interface EmbeddedPostgresOptions {
  /** Made when it is absent. As root it must lie where the Postgres account can come. */
  readonly dataFolder: string
  readonly log: Pick<Logger, "debug" | "info" | "warn">
  readonly signal?: AbortSignal
  /** `false` only for data that nobody will miss: writes are not forced to disk. */
  readonly isDurable?: boolean
  /** Removes the data folder at the end, also when this process is killed. */
  readonly isTemporary?: boolean
  /** Settings of the server beside those that this module needs for itself. */
  readonly settings?: Readonly<Record<string, string>>
}

/** A running server; `adminUrl` connects as its superuser. */
export interface EmbeddedPostgres extends AsyncDisposable {
  readonly adminUrl: string
}

const startTimeoutMs = 20_000
const stopTimeoutMs = 10_000
const keptLogLines = 20

/**
 * Starts the PostgreSQL of this data folder, initialising it when it is new. Rejects when another
 * process supervises the same folder. Stops a server that a killed process left there.
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions,
): Promise<EmbeddedPostgres> {
  const { dataFolder, signal } = options
  const binaries = findPostgresBinaries()
  openFolder(dataFolder, binaries)
  const password = readPassword(dataFolder)
  const data = join(dataFolder, "postgres")
  await clearLeftover(data, (port) => adminUrlOf(port, password))
  signal?.throwIfAborted()
  await initialise(binaries, { dataFolder, data, password })
  const port = await choosePort(join(dataFolder, "port"))
  const server = launch(binaries, data, port, options)
  try {
    await untilReady(server, signal)
    const adminUrl = adminUrlOf(port, password)
    const supervisor = await connect(adminUrl, { name: "supervisor" })
    await takeLock(supervisor, dataFolder)
    return { adminUrl, [Symbol.asyncDispose]: () => stop(server, supervisor, options) }
  } catch (error) {
    await stop(server, undefined, options)
    throw error
  }
}

/**
 * Deletes a data folder with all that is in it. Rejects while another process supervises its server,
 * and stops one that a killed process left there.
 */
export async function removeData(dataFolder: string): Promise<void> {
  if (!existsSync(dataFolder)) return
  const password = readPassword(dataFolder)
  await clearLeftover(join(dataFolder, "postgres"), (port) => adminUrlOf(port, password))
  rmSync(dataFolder, { recursive: true, force: true })
}

interface Server {
  readonly child: ChildProcess
  readonly watcher: ChildProcess | undefined
  readonly lines: readonly string[]
  readonly ready: Promise<void>
  readonly exited: Promise<string>
}

function launch(
  { postgres, account }: PostgresBinaries,
  data: string,
  port: number,
  options: EmbeddedPostgresOptions,
): Server {
  const isDurable = options.isDurable !== false
  const settings = {
    ...options.settings,
    port,
    listen_addresses: "127.0.0.1",
    unix_socket_directories: "",
    max_connections: 300,
    fsync: isDurable ? "on" : "off",
    synchronous_commit: isDurable ? "on" : "off",
    full_page_writes: isDurable ? "on" : "off",
    log_checkpoints: "off",
    lc_messages: "C",
    timezone: "UTC",
  }
  const flags = Object.entries(settings).flatMap(([name, value]) => ["-c", `${name}=${value}`])
  const child = spawn(postgres, ["-D", data, ...flags], {
    ...account,
    cwd: "/",
    detached: true,
    stdio: ["ignore", "ignore", "pipe"],
    windowsHide: true,
  })
  const ready = Promise.withResolvers<void>()
  const exited = Promise.withResolvers<string>()
  const lines: string[] = []
  createInterface({ input: child.stderr }).on("line", (line) => {
    options.log.debug({ postgres: line }, "postgres")
    lines.push(line)
    if (lines.length > keptLogLines) lines.shift()
    if (line.includes("ready to accept connections")) ready.resolve()
  })
  child.on("error", (error) => exited.resolve(String(error)))
  child.on("exit", (code, signal) => exited.resolve(`exit ${signal ?? code}`))
  const removed = options.isTemporary === true ? options.dataFolder : ""
  return {
    child,
    watcher: watch(child.pid, removed),
    lines,
    ready: ready.promise,
    exited: exited.promise,
  }
}

/** A shell that waits for the end of our pipe, which is our end, and then ends the server. */
function watch(pid: number | undefined, removedFolder: string): ChildProcess | undefined {
  if (pid === undefined || process.platform === "win32") return undefined
  const script = `trap '' INT TERM HUP; read -r _
    kill -INT "$1" 2>/dev/null || exit 0
    while kill -0 "$1" 2>/dev/null; do sleep 0.1; done
    if [ -n "$2" ]; then rm -rf "$2"; fi`
  const watcher = spawn("/bin/sh", ["-c", script, "sh", String(pid), removedFolder], {
    cwd: "/",
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  })
  watcher.on("error", () => {})
  watcher.stdin.on("error", () => {})
  watcher.unref()
  return watcher
}

async function untilReady(server: Server, signal: AbortSignal | undefined): Promise<void> {
  const timer = new AbortController()
  const given = signal === undefined ? timer.signal : AbortSignal.any([timer.signal, signal])
  const late = sleep(startTimeoutMs, "no answer in time", { signal: given })
  const ended = Promise.race([server.exited, late])
  const failure = await Promise.race([server.ready, ended]).finally(() => timer.abort())
  late.catch(() => {})
  if (failure === undefined) return
  throw new Error(`PostgreSQL did not start (${failure}):\n${server.lines.join("\n")}`)
}

async function takeLock(supervisor: Connection, dataFolder: string): Promise<void> {
  const [row] = await supervisor.query<{ taken: boolean }>(
    "select pg_try_advisory_lock($1::bigint) as taken",
    [supervisorLock],
  )
  if (row?.taken !== true) throw new Error(`another process supervises ${dataFolder}`)
}

async function stop(
  { child, watcher, exited }: Server,
  supervisor: Connection | undefined,
  options: EmbeddedPostgresOptions,
): Promise<void> {
  await Promise.resolve(supervisor?.[Symbol.asyncDispose]()).catch(() => {})
  child.kill(options.isTemporary === true ? "SIGQUIT" : "SIGINT")
  const timer = new AbortController()
  const late = sleep(stopTimeoutMs, "late", { signal: timer.signal }).catch(() => "ended")
  if ((await Promise.race([exited, late])) === "late") {
    options.log.warn("PostgreSQL did not stop in time and is ended at once")
    child.kill("SIGQUIT")
    await exited
  }
  timer.abort()
  watcher?.kill("SIGKILL")
  if (options.isTemporary === true) rmSync(options.dataFolder, { recursive: true, force: true })
}

function openFolder(folder: string, { account }: PostgresBinaries): void {
  makeOwnFolder(folder)
  // The Postgres account passes through to its own folder inside and can list nothing here.
  chmodSync(folder, account === undefined ? 0o700 : 0o711)
  const data = join(folder, "postgres")
  if (existsSync(data)) return
  mkdirSync(data, { mode: 0o700 })
  if (account !== undefined) chownSync(data, account.uid, account.gid)
}

function readPassword(folder: string): string {
  const file = join(folder, "admin-password")
  if (!existsSync(file)) writeFileSync(file, randomBytes(24).toString("base64url"), { mode: 0o600 })
  return readFileSync(file, "utf8").trim()
}

/** The port of last time while it is free, so that URLs stay the same from start to start. */
async function choosePort(file: string): Promise<number> {
  const remembered = existsSync(file) ? Number(readFileSync(file, "utf8")) : 0
  const port = (await freePort(remembered)) ?? (await freePort(0))
  if (port === undefined) throw new Error("no free port on 127.0.0.1")
  writeFileSync(file, String(port), { mode: 0o600 })
  return port
}

function freePort(wanted: number): Promise<number | undefined> {
  const { promise, resolve } = Promise.withResolvers<number | undefined>()
  const probe = createServer()
  probe.on("error", () => resolve(undefined))
  probe.listen({ host: "127.0.0.1", port: wanted || 0 }, () => {
    const address = probe.address()
    const port = typeof address === "object" && address !== null ? address.port : undefined
    probe.close(() => resolve(port))
  })
  return promise
}

function adminUrlOf(port: number, password: string): string {
  return `postgres://postgres:${password}@127.0.0.1:${port}/postgres`
}
