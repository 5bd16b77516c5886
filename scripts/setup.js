// Installs what is missing, so that the two commands of the README work in a fresh checkout. Plain
// JavaScript without dependencies: it runs on whatever Node the machine has, before there is ours.
import { spawn } from "node:child_process"
import { createHash } from "node:crypto"
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { userInfo } from "node:os"
import path from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import { fileURLToPath, pathToFileURL } from "node:url"

const oldestNode = 20
const ownNode = 24
const lockWaitMs = 600_000
const progressMs = 5_000
const signalEchoMs = 1_000

export const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
const modules = path.join(root, "node_modules")
const bin = path.join(modules, ".bin")
const stamp = path.join(modules, ".runwarden-setup")
const lockFile = path.join(root, ".setup.lock")

/** A problem that the reader can do something about; printed without a stack. */
class SetupError extends Error {}

/** Makes sure that everything of the lock file is installed. Ends the process when it cannot be. */
export async function setUp() {
  try {
    refuseOldNode()
    if (isInstalled()) return
    await withLock(async () => {
      if (!isInstalled()) await install()
    })
  } catch (error) {
    if (!(error instanceof SetupError)) throw error
    console.error(`\n${error.message}`)
    process.exit(1)
  }
}

/**
 * Runs our own Node with these arguments until it ends, and returns its exit code. A signal reaches
 * it once, however many copies a terminal and npm send us; and it is told when we are gone.
 */
export async function runNode(args) {
  const guard = pathToFileURL(path.join(root, "scripts", "end-with-parent.js")).href
  const child = spawn(path.join(bin, "node"), ["--import", guard, ...args], {
    cwd: root,
    detached: true,
    env: { ...process.env, PATH: `${bin}${path.delimiter}${process.env.PATH ?? ""}` },
    stdio: ["inherit", "inherit", "inherit", "ipc"],
    shell: process.platform === "win32",
  })
  let lastSignalAt = 0
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      if (Date.now() - lastSignalAt < signalEchoMs) return
      lastSignalAt = Date.now()
      child.kill(signal)
    })
  }
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("exit", (code, signal) => resolve(code ?? (signal === "SIGINT" ? 130 : 1)))
  })
}

function refuseOldNode() {
  if (Number(process.versions.node.split(".")[0]) >= oldestNode) return
  throw new SetupError(
    `Runwarden needs Node ${oldestNode} or newer to begin with; this is ${process.version}.\n` +
      "Install one from https://nodejs.org, and run the command again.",
  )
}

/** Whether what is installed is what the lock file says; the stamp only saves the comparison. */
function isInstalled() {
  if (!existsSync(path.join(bin, process.platform === "win32" ? "node.cmd" : "node"))) return false
  if (readText(stamp) === lockHash()) return true
  if (!isComplete()) return false
  writeStamp()
  return true
}

/** Whether npm itself has recorded every package that this platform needs, in the right version. */
function isComplete() {
  const wanted = JSON.parse(readText(path.join(root, "package-lock.json"))).packages
  const recorded = JSON.parse(readText(path.join(modules, ".package-lock.json")) || "{}").packages
  if (recorded === undefined) return false
  return Object.entries(wanted).every(
    ([name, { version, optional }]) =>
      name === "" || (recorded[name] ? recorded[name].version === version : optional === true),
  )
}

async function install() {
  refuseReadOnly()
  const started = Date.now()
  console.log("Installing what is missing (the first time takes about half a minute) …")
  const ticker = setInterval(() => {
    console.log(`  … still installing, ${Math.round((Date.now() - started) / 1000)} s`)
  }, progressMs)
  try {
    // Nobody's install script runs, and then those of the packages that package.json lists do.
    await npm(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
    await npm(["rebuild", "--loglevel=error", ...allowedPackages()])
  } finally {
    clearInterval(ticker)
  }
  checkOwnNode()
  writeStamp()
  console.log(`Installed in ${Math.round((Date.now() - started) / 1000)} s.`)
}

function allowedPackages() {
  const { allowScripts } = JSON.parse(readText(path.join(root, "package.json")))
  return Object.keys(allowScripts).filter(
    (name) => allowScripts[name] === true && existsSync(path.join(modules, name)),
  )
}

function npm(args) {
  const script = process.env.npm_execpath ?? ""
  const isNpm = path.basename(script) === "npm-cli.js"
  const [command, first] = isNpm ? [process.execPath, [script]] : ["npm", []]
  const child = spawn(command, [...first, ...args], {
    cwd: root,
    stdio: ["ignore", "ignore", "pipe"],
    shell: !isNpm && process.platform === "win32",
  })
  let output = ""
  child.stderr.setEncoding("utf8").on("data", (text) => {
    output = (output + text).slice(-8_000)
  })
  return new Promise((resolve, reject) => {
    child.on("error", (error) => reject(new SetupError(`npm cannot be run: ${error.message}`)))
    child.on("close", (code) => {
      if (code === 0) resolve(undefined)
      else reject(new SetupError(explain(args, output)))
    })
  })
}

function explain(args, output) {
  const command = `npm ${args.join(" ")}`
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH|ECONNRESET/.test(output)) {
    return (
      "npm cannot reach the package registry. Check the network, or the proxy and registry in\n" +
      `your npm configuration (npm config get registry), and run the command again.\n\n${output}`
    )
  }
  if (/EACCES|EPERM|EROFS/.test(output)) return `${notYours()}\n\n${output}`
  if (/ENOSPC/.test(output)) return `The disk is full; about 700 MB are needed.\n\n${output}`
  // npm prints its whole manual after some errors.
  return `\`${command}\` failed:\n\n${output.split(/npm error\s*\n?.*Usage:/)[0]}`
}

function refuseReadOnly() {
  for (const folder of [root, modules]) {
    if (existsSync(folder) && !canWrite(folder)) throw new SetupError(notYours())
  }
}

function notYours() {
  return (
    `Packages are missing or out of date in ${modules}, and ${userName()} may not write there.\n` +
    "Run `npm ci` as its owner, or work in a copy of your own."
  )
}

function checkOwnNode() {
  const version =
    JSON.parse(readText(path.join(modules, "node", "package.json")) || "{}").version ?? ""
  if (Number(version.split(".")[0]) === ownNode && existsSync(path.join(bin, "node"))) return
  throw new SetupError(
    `Node ${ownNode} was not installed (found ${version || "none"}): there is no build of the npm\n` +
      `package "node" for ${process.platform} ${process.arch}, or its install script did not run.`,
  )
}

/** One process installs at a time; the others wait and then find everything there. */
async function withLock(work) {
  if (!canWrite(root)) return work()
  const end = Date.now() + lockWaitMs
  for (let hasSaid = false; !tryLock(); hasSaid = true) {
    if (!hasSaid) console.log("Another process is installing here; waiting for it …")
    if (Date.now() > end) throw new SetupError(`Remove ${lockFile} if nothing is installing.`)
    await sleep(200)
  }
  const unlock = () => rmSync(lockFile, { force: true })
  process.once("exit", unlock)
  try {
    return await work()
  } finally {
    unlock()
    process.removeListener("exit", unlock)
  }
}

function tryLock() {
  try {
    const file = openSync(lockFile, "wx")
    writeFileSync(file, String(process.pid))
    closeSync(file)
    return true
  } catch (error) {
    if (error.code !== "EEXIST") throw error
  }
  const holder = Number(readText(lockFile))
  if (holder > 0 && !isAlive(holder)) rmSync(lockFile, { force: true })
  return false
}

function isAlive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error.code === "EPERM"
  }
}

function writeStamp() {
  if (canWrite(modules)) writeFileSync(stamp, lockHash())
}

function lockHash() {
  const text = readText(path.join(root, "package-lock.json"))
  return createHash("sha256").update(`${process.platform} ${process.arch} ${text}`).digest("hex")
}

function readText(file) {
  try {
    return readFileSync(file, "utf8")
  } catch {
    return ""
  }
}

function canWrite(folder) {
  try {
    accessSync(folder, constants.W_OK)
    return true
  } catch {
    return false
  }
}

function userName() {
  try {
    return userInfo().username
  } catch {
    return "this user"
  }
}

if (process.argv[1] && pathToFileURL(process.argv[1]).href === import.meta.url) await setUp()
