/** For tests, a process of its own: an orchestrator that dies of a call, `killsAfterMs` after it was sent. */
import type { DatabaseConfig } from "../../../mesh/database.ts"
import { createPeers, startOrchestrator } from "../orchestrator-harness.ts"

process.once("message", (database: DatabaseConfig) => {
  const peers = createPeers()
  peers.script.execute = async ({ arguments: args }) => {
    const { killsAfterMs, tookMs = killsAfterMs } = args ?? {}
    await new Promise((resolve) => setTimeout(resolve, Number(tookMs)))
    if (killsAfterMs !== undefined) process.kill(process.pid, "SIGKILL")
    return {}
  }
  startOrchestrator({ peers, database, executor: { leaseMs: 3_000 } }).then(
    () => process.send?.("started"),
    (error: unknown) => {
      console.error(error)
      process.exit(1)
    },
  )
})
process.once("disconnect", () => process.exit(0))
