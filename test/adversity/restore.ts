/**
 * The orchestrator's database alone goes back to an earlier snapshot, while every other service's
 * stays as it is: no effect is repeated, and what the orchestrator no longer knows is reported.
 */
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { OrphanCause } from "../../gen/runwarden/orchestrator/v1/orphan_pb.ts"
import { OrphanService } from "../../gen/runwarden/orchestrator/v1/orphan_service_pb.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import type { Cluster } from "./cluster.ts"
import { open } from "./dump.ts"
import { sleep } from "./faults.ts"
import { readLedger } from "./ledger-file.ts"
import { restoreSnapshot, takeSnapshot } from "./orchestrator-database.ts"
import { mixedShapes } from "./run-shapes.ts"
import type { Scenario, ScenarioContext } from "./scenario.ts"

export const restore: Scenario = {
  name: "restore of one database",
  async run(context) {
    const { cluster, workload, history, runs, random, faults } = context
    const shapes = mixedShapes(runs, random.between(0, 2 ** 31)).map((shape) => ({
      ...shape,
      delayMs: Math.round(random.between(0, 600)),
    }))
    const half = Math.ceil(shapes.length / 2)
    await workload.start(shapes.slice(0, half), half)
    await takeSnapshot(cluster)
    await workload.start(shapes.slice(half), 64)
    // Some have ended and some are under way when time goes back.
    const end = Date.now() + 30_000
    while (workload.endedCount < runs * 0.7 && Date.now() < end) await sleep(50)
    const known = await runsIn(cluster, context)
    await restoreSnapshot(cluster)
    faults.count("restore of the orchestrator's database")
    const left = await runsIn(cluster, context)
    const lost = new Set([...known].filter((runId) => !left.has(runId)))
    workload.forget(lost)
    // What had ended since then goes on from where it was, and is asked for again.
    workload.revive(left)
    for (const { workspaceId } of workload.workspaces)
      history.note({ kind: "restored", workspaceId })
    for (const entry of [...history.entries]) {
      if (entry.kind !== "run_started" || !lost.has(entry.runId)) continue
      history.note({ kind: "run_lost", workspaceId: entry.workspaceId, runId: entry.runId })
    }
    if (lost.size === 0) context.note("no run was undone: nothing was shown")
  },
  async afterwards({ cluster, workload, history, note, faults }) {
    const lost = new Set(
      history.entries.flatMap((entry) => (entry.kind === "run_lost" ? [entry.runId] : [])),
    )
    const done = readLedger(cluster.ledgerFile).filter(({ kind }) => kind === "effect")
    const expected = new Set(done.flatMap(({ runId, key }) => (lost.has(runId) ? [key] : [])))
    const reported = await orphanKeys(cluster, workload)
    for (const key of expected) {
      if (!reported.has(key)) note(`the effect of ${key} is of no run, and not reported`)
    }
    for (const [key, isOfNoRun] of reported) {
      if (isOfNoRun && !lost.has(key.split("/")[0] ?? "")) note(`${key} is reported, and has a run`)
    }
    faults.count("orphans reported", reported.size)
  },
  // Telemetry goes on counting what it was told of runs that are no more.
  isFreeToBreak: "I9",
}

/** The keys that the product itself reports, and whether their run is unknown. */
async function orphanKeys(
  cluster: Cluster,
  workload: ScenarioContext["workload"],
): Promise<ReadonlyMap<string, boolean>> {
  const client = cluster.client(OrphanService, "orchestrator")
  const found = new Map<string, boolean>()
  for (const { workspaceId, adminId } of workload.workspaces) {
    const options = actingAs(memberSubject(workspaceId, adminId, Role.ADMIN))
    let pageToken = ""
    do {
      const page = await client.listOrphans({ workspaceId, pageSize: 50, pageToken }, options)
      for (const { idempotencyKey, cause } of page.orphans) {
        found.set(idempotencyKey, cause === OrphanCause.UNKNOWN_RUN)
      }
      pageToken = page.nextPageToken
    } while (pageToken !== "")
  }
  return found
}

async function runsIn(
  cluster: Cluster,
  { workload }: ScenarioContext,
): Promise<ReadonlySet<string>> {
  await using database = await open(cluster, "orchestrator")
  const rows = await database.query<{ runId: string }>(
    `select run_id as "runId" from runs where workspace_id = any ($1::uuid[])`,
    [workload.workspaces.map(({ workspaceId }) => workspaceId)],
  )
  return new Set(rows.map(({ runId }) => runId))
}
