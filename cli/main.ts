/** The runwarden command on Node 24: this process and its environment, and nothing else. */
import path from "node:path"
import { exitCodes } from "./exit-code.ts"
import { runCli } from "./program.ts"

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
  checkout: path.dirname(import.meta.dirname),
  cwd: process.cwd(),
  stdin: process.stdin,
  stdout: process.stdout,
  stderr: process.stderr,
  signal: controller.signal,
  now: () => new Date(),
})
process.exitCode = code
