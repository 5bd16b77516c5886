#!/usr/bin/env node
// The `runwarden` command as npm links it. Plain JavaScript: it runs on whatever Node the machine
// has, and hands over to the Node that this checkout brings.
import { spawn } from "node:child_process"
import { existsSync } from "node:fs"
import path from "node:path"
import { fileURLToPath } from "node:url"

const ownNode = 24
const checkout = path.dirname(path.dirname(fileURLToPath(import.meta.url)))
const modules = path.join(checkout, "node_modules")
const isWindows = process.platform === "win32"
const node = isWindows
  ? path.join(modules, "node", "bin", "node.exe")
  : path.join(modules, ".bin", "node")

if (!existsSync(node) || !existsSync(path.join(modules, "commander"))) {
  console.error(
    `Nothing is installed in ${checkout} yet.\n` +
      "Run `npm start` there: it installs what is missing and starts a mesh. `npm ci` only installs.",
  )
  process.exitCode = 1
} else if (Number(process.versions.node.split(".")[0]) === ownNode) {
  await import("./main.ts")
} else {
  const main = path.join(checkout, "cli", "main.ts")
  const child = spawn(node, [main, ...process.argv.slice(2)], { stdio: "inherit" })
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"]
  // A terminal signals both of us; main.ts takes the two for one.
  for (const signal of signals) process.on(signal, () => child.kill(signal))
  child.on("error", (error) => {
    console.error(`The Node of this checkout cannot be run (${error.message}). Run \`npm ci\`.`)
    process.exitCode = 1
  })
  child.on("exit", (code, signal) => {
    for (const name of signals) process.removeAllListeners(name)
    if (signal === null) process.exitCode = code ?? 1
    else process.kill(process.pid, signal)
  })
}
