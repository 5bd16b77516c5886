import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import {
  accessSync,
  chownSync,
  constants,
  existsSync,
  mkdirSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { homedir, tmpdir } from "node:os"
import { join } from "node:path"
import { makeRootFolder, type PostgresBinaries, rootFolder } from "./postgres-binaries.ts"

/** Where a new cluster goes and how its superuser connects. */
export interface NewCluster {
  readonly dataFolder: string
  readonly data: string
  readonly password: string
}

/** An id of the account that has one in every system with accounts: that of `nobody`. */
const namedUid = 65_534

/**
 * The folder for the data of a checkout. Users of one checkout never share one: an ordinary user has
 * `.data/user-<id>` in the checkout or, where they may not write, a folder in their home or among the
 * temporary files; root, whose server runs as another account, has one where that account can come.
 */
export function dataFolderFor(checkout: string): string {
  const uid = process.getuid?.()
  const real = realpathSync(checkout)
  const key = createHash("sha256").update(real).digest("hex").slice(0, 12)
  if (uid === 0) {
    makeRootFolder(rootFolder)
    return join(rootFolder, `data-${key}`)
  }
  const shared = join(real, ".data")
  const name = uid === undefined ? "user" : `user-${uid}`
  // The checkout may belong to somebody else, whose .data must not be in anybody's way.
  const nearest = [join(shared, name), shared, real].find((folder) => existsSync(folder)) ?? real
  if (canWrite(nearest)) return join(shared, name)
  const home = homeFolder()
  if (home !== undefined) return join(home, ".local", "share", "runwarden", key)
  return join(tmpdir(), `runwarden-${name}-${key}`)
}

/** A container's user may have no home, or one that does not exist. */
function homeFolder(): string | undefined {
  try {
    const home = homedir()
    return canWrite(home) ? home : undefined
  } catch {
    return undefined
  }
}

/** Makes the cluster unless it is there already. A half-made one, without its last file, is redone. */
export async function initialise(binaries: PostgresBinaries, cluster: NewCluster): Promise<void> {
  const { dataFolder, data, password } = cluster
  const marker = join(dataFolder, "initialised")
  if (existsSync(marker)) return
  rmSync(data, { recursive: true, force: true })
  mkdirSync(data, { mode: 0o700 })
  const passwordFile = join(dataFolder, "initial-password")
  writeFileSync(passwordFile, password, { mode: 0o600 })
  const { account } = binaries
  if (account !== undefined) {
    chownSync(data, account.uid, account.gid)
    chownSync(passwordFile, account.uid, account.gid)
  }
  const flags = [
    ...["-D", data, "-U", "postgres", "-A", "scram-sha-256", `--pwfile=${passwordFile}`],
    ...[
      "-E",
      "UTF8",
      "--locale-provider=builtin",
      "--locale=C.UTF-8",
      "--no-sync",
      "--no-instructions",
    ],
  ]
  try {
    await runInitdb(binaries, flags)
    writeFileSync(marker, "", { mode: 0o600 })
  } finally {
    rmSync(passwordFile, { force: true })
  }
}

async function runInitdb({ initdb, account }: PostgresBinaries, flags: string[]): Promise<void> {
  const failure = await run(initdb, flags, account)
  if (failure === undefined) return
  // initdb insists on a name for its user. A container may run under a number without one: then it
  // runs in a user namespace in which we have a name. The server itself needs none.
  const isNameless = failure.includes("could not look up effective user ID")
  const args = ["--user", `--map-user=${namedUid}`, initdb, ...flags]
  const second = isNameless ? await run("unshare", args, account) : failure
  if (second === undefined) return
  const advice = isNameless ? "\nGive your user id a name in /etc/passwd, or set DATABASE_URL." : ""
  throw new Error(`PostgreSQL could not be initialised:\n${second.trim()}${advice}`)
}

/** Runs to the end; undefined for success, else what it printed. */
function run(
  command: string,
  args: readonly string[],
  account: PostgresBinaries["account"],
): Promise<string | undefined> {
  const { promise, resolve } = Promise.withResolvers<string | undefined>()
  const child = spawn(command, args, { ...account, cwd: "/", stdio: ["ignore", "pipe", "pipe"] })
  let output = ""
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text
    })
  }
  child.on("error", (error) => resolve(String(error)))
  child.on("close", (code) =>
    resolve(code === 0 ? undefined : output || `${command}: exit ${code}`),
  )
  return promise
}

function canWrite(folder: string): boolean {
  try {
    accessSync(folder, constants.W_OK)
    return true
  } catch {
    return false
  }
}
