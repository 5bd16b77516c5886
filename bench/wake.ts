/**
 * How late scheduled runs begin: `node bench/wake.ts [--runs N] [--seconds N]`. One process carries all
 * services; runs of sixteen workspaces, stored before, are due at times spread over so many seconds.
 * How late each is is what its own history says by the clock of the database: from its start time to
 * when it is running.
 */
import { parseArgs } from "node:util"
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { actingAs, memberSubject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { startLocalMesh } from "./bench-mesh.ts"
import { startBenchServer } from "./bench-server.ts"
import { describeMachine } from "./machine.ts"
import { type BenchMembers, createRunStarter } from "./run-starter.ts"

const { values } = parseArgs({
  options: {
    runs: { type: "string", default: "1000" },
    seconds: { type: "string", default: "60" },
  },
})
const [count, seconds] = [Number(values.runs), Number(values.seconds)]
/** Long enough to have stored them all before the first is due. */
const headStartMs = 5_000 + 5 * count

await using stack = new AsyncDisposableStack()
const server = stack.use(await startBenchServer({ dataFolder: undefined, countsStatements: false }))
const databases = await server.databases("wake")
const mesh = stack.use(await startLocalMesh({ databases, env: {}, profileFolder: undefined }))
const runs = createMeshClient(RunService, mesh.orchestrator)
const { members } = await createRunStarter(mesh)

const firstAt = Date.now() + headStartMs
const scheduled = []
for (let n = 0; n < count; n++) {
  const its = members[n % members.length]
  if (its === undefined) throw new Error("there are workspaces")
  const at = firstAt + Math.round((seconds * 1_000 * n) / count)
  scheduled.push({ its, runId: await schedule(its, n, at), at })
}
if (Date.now() > firstAt) throw new Error("storing them took longer than the head start")
await new Promise((resolve) => setTimeout(resolve, firstAt + seconds * 1_000 + 3_000 - Date.now()))
const late: number[] = []
for (const { its, runId, at } of scheduled) late.push((await beginOf(its, runId)) - at)

late.sort((one, other) => one - other)
const at = (share: number) => late[Math.min(late.length - 1, Math.floor(share * late.length))] ?? 0
process.stdout.write(`${describeMachine()}, PostgreSQL ${server.version}
${count} runs due over ${seconds} s, late by: p50 ${at(0.5)} ms, p99 ${at(0.99)} ms, at most ${at(1)} ms
`)

async function schedule(its: BenchMembers, n: number, at: number): Promise<string> {
  const { workspaceId } = its
  const steps = [
    { tool: "each/record.write", arguments: { step: 0, amount: n, note: `Entry ${n}` } },
  ]
  const plan = { name: "wake", steps }
  const request = { workspaceId, requestId: newId(), plan, startTime: timestampFromMs(at) }
  const { run } = await runs.startRun(request, as(its))
  if (run?.reason !== "scheduled") throw new Error("a run was not scheduled")
  return run.runId
}

/** When a run began, in milliseconds. */
async function beginOf(its: BenchMembers, runId: string): Promise<number> {
  const { workspaceId } = its
  const { events } = await runs.listRunEvents({ workspaceId, runId }, as(its))
  const began = events.find(
    ({ kind }) => kind.case === "runStateChanged" && kind.value.state === RunState.RUNNING,
  )
  if (began?.time === undefined) throw new Error(`run ${runId} has not begun`)
  return timestampMs(began.time)
}

function as({ workspaceId, requesterId }: BenchMembers) {
  return actingAs(memberSubject(workspaceId, requesterId, Role.ADMIN))
}
