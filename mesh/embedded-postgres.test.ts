import { spawn } from "node:child_process"
import { once } from "node:events"
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterEach, beforeEach, expect, test } from "vitest"
import { connect, openDatabase } from "./database.ts"
import {
  dataFolderFor,
  provisionDatabases,
  readPasswords,
  startEmbeddedPostgres,
} from "./embedded-postgres.ts"
import { notesMigrations, runtime } from "./fixtures/notes-database.ts"
import { until } from "./testing.ts"

let parent: string
let dataFolder: string

beforeEach(() => {
  parent = mkdtempSync(join(realpathSync(tmpdir()), "runwarden-embedded-"))
  // As root another account runs the server, which must be able to come here.
  if (process.getuid?.() === 0) chmodSync(parent, 0o711)
  dataFolder = join(parent, "data")
})
afterEach(() => rmSync(parent, { recursive: true, force: true }))

const log = { debug() {}, info() {}, warn() {} }
const start = (isDurable = false) => startEmbeddedPostgres({ dataFolder, log, isDurable })
const serverPid = () =>
  Number(readFileSync(join(dataFolder, "postgres", "postmaster.pid"), "utf8").split("\n")[0])

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

async function startInChild() {
  const script = join(import.meta.dirname, "fixtures", "embedded-postgres-child.ts")
  const child = spawn(process.execPath, [script, dataFolder], {
    stdio: ["ignore", "pipe", "inherit"],
  })
  await once(child.stdout, "data")
  return child
}

test("data and port stay from start to start, and are ours alone", async () => {
  let firstUrl: string
  {
    await using server = await start(true)
    firstUrl = server.adminUrl
    await using admin = await connect(server.adminUrl)
    await admin.query("create table kept as select 42 as answer")
  }
  await using server = await start(true)
  expect(server.adminUrl).toBe(firstUrl)
  await using admin = await connect(server.adminUrl)
  expect(await admin.query("select answer from kept")).toEqual([{ answer: 42 }])
  expect(await admin.query("show fsync")).toEqual([{ fsync: "on" }])
  for (const file of ["admin-password", "port"]) {
    expect(statSync(join(dataFolder, file)).mode & 0o777).toBe(0o600)
  }
  expect(statSync(join(dataFolder, "postgres")).mode & 0o777).toBe(0o700)
  expect(statSync(dataFolder).mode & 0o066).toBe(0)
  const wrong = new URL(server.adminUrl)
  wrong.password = "guess"
  await expect(connect(wrong.href)).rejects.toThrow(/password authentication failed/)
})

test("a second process is refused while the first lives", async () => {
  await using server = await start()
  await expect(start()).rejects.toThrow(/is running on .* already/)
  await using admin = await connect(server.adminUrl)
  expect(await admin.query("select 1 as x")).toEqual([{ x: 1 }])
})

test("the server ends with its parent, also when that is killed", async () => {
  const child = await startInChild()
  const pid = serverPid()
  expect(isAlive(pid)).toBe(true)
  child.kill("SIGKILL")
  await until(() => !isAlive(pid))
  await using _ = await start()
})

test("a server that has lost its parent and does not stop by itself is stopped by the next start", async () => {
  const child = await startInChild()
  const pid = serverPid()
  // Frozen, it hears nothing of the watcher's signal until the next start is under way.
  process.kill(pid, "SIGSTOP")
  child.kill("SIGKILL")
  await once(child, "exit")
  const starting = start()
  process.kill(pid, "SIGCONT")
  await using server = await starting
  expect(serverPid()).not.toBe(pid)
  await using admin = await connect(server.adminUrl)
  expect(await admin.query("select 1 as x")).toEqual([{ x: 1 }])
})

test("a stale lock file that names a stranger's process is no obstacle", async () => {
  {
    await using _ = await start()
  }
  const file = join(dataFolder, "postgres", "postmaster.pid")
  writeFileSync(file, `${process.pid}\n${join(dataFolder, "postgres")}\n0\n1\n\n\n\n`)
  await using _ = await start()
  expect(serverPid()).not.toBe(process.pid)
})

test("an initialisation that was interrupted is begun anew", async () => {
  {
    await using _ = await start()
  }
  rmSync(join(dataFolder, "initialised"))
  await using server = await start()
  await using admin = await connect(server.adminUrl)
  expect(await admin.query("select 1 as x")).toEqual([{ x: 1 }])
})

test("a temporary server leaves nothing", async () => {
  {
    await using _ = await startEmbeddedPostgres({
      dataFolder,
      log,
      isTemporary: true,
      isDurable: false,
    })
  }
  expect(existsSync(dataFolder)).toBe(false)
})

test("services get databases that only their roles can enter and only their owner can change", async () => {
  await using server = await start()
  const options = { passwordOf: readPasswords(dataFolder) }
  const configs = await provisionDatabases(server.adminUrl, ["tools", "projects"], options)
  expect(await provisionDatabases(server.adminUrl, ["tools", "projects"], options)).toEqual(configs)
  const { tools, projects } = configs
  await using database = openDatabase(projects, { runtime, migrations: notesMigrations })
  await database.migrate()
  await database.verify()
  for (const url of [projects.appUrl, projects.workerUrl]) {
    await using role = await connect(url)
    await expect(role.query("create table mine (id int)")).rejects.toThrow(/permission denied/)
    await expect(role.query("create schema mine")).rejects.toThrow(/permission denied/)
    await expect(connect(url, { database: "tools" })).rejects.toThrow(/permission denied/)
  }
  await expect(connect(tools.appUrl, { database: "projects" })).rejects.toThrow(/permission denied/)
})

test("a data folder that is a link or somebody else's is left alone", async () => {
  const elsewhere = join(parent, "elsewhere")
  mkdirSync(elsewhere)
  // Whatever the umask of whoever runs this.
  chmodSync(elsewhere, 0o755)
  symlinkSync(elsewhere, dataFolder)
  await expect(start()).rejects.toThrow(/is a link or belongs to another user/)
  expect(statSync(elsewhere).mode & 0o777).toBe(0o755)
  expect(readdirSync(elsewhere)).toEqual([])
  rmSync(dataFolder)
  if (process.getuid?.() !== 0) return
  mkdirSync(dataFolder)
  chownSync(dataFolder, 65_534, 65_534)
  await expect(start()).rejects.toThrow(/is a link or belongs to another user/)
})

test("each user of a checkout has a data folder of their own", () => {
  const folder = dataFolderFor(parent)
  const uid = process.getuid?.()
  if (uid === 0) expect(folder.startsWith(parent)).toBe(false)
  else expect(folder).toBe(join(parent, ".data", `user-${uid ?? ""}`))
  expect(dataFolderFor(parent)).toBe(folder)
})
