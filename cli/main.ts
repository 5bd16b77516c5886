/** The runwarden command on Node 24: this process and its environment, and nothing else. */
import { enableCompileCache } from "node:module"
import path from "node:path"

const checkout = path.dirname(import.meta.dirname)
// Whoever may write there may change our code anyway; the temporary folder is anybody's.
enableCompileCache(path.join(checkout, "node_modules", ".cache", "runwarden"))
const { exitCodes } = await import("./exit-code.ts")
const { runCli } = await import("./program.ts")

/** A terminal signals the launcher and us: two signals at once are one. */
const echoMs = 500

const controller = new AbortController()
let firstSignalAt = 0
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => {
    if (controller.signal.aborted && Date.now() - firstSignalAt > echoMs) {
      process.exit(exitCodes.interrupted)
    }
    if (!controller.signal.aborted) firstSignalAt = Date.now()
    controller.abort(new Error("interrupted"))
  })
}
// `… | head` closes our stdout before we are done: nobody reads on, so nothing is left to do.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  process.exit(error.code === "EPIPE" ? exitCodes.ok : exitCodes.error)
})

const code = await runCli(process.argv.slice(2), {
  env: process.env,
  checkout,
  cwd: process.cwd(),
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  signal: controller.signal,
  now: () => new Date(),
})
process.exitCode = code
