/** Messages that arrive again, or too late: sent by the test itself, in the name of the services. */
import type { JsonObject } from "@bufbuild/protobuf"
import type { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../mesh/identity.ts"
import type { Cluster } from "./cluster.ts"
import { open } from "./dump.ts"
import { sleep } from "./faults.ts"
import { mixedShapes } from "./run-shapes.ts"
import type { Scenario, ScenarioContext } from "./scenario.ts"

interface SentCall {
  readonly workspaceId: string
  readonly runId: string
  readonly stepIndex: number
  readonly stepCount: number
  readonly key: string
  readonly tool: string
  readonly definitionDigest: string
  readonly arguments: string
  readonly epoch: number
  readonly requesterId: string
  readonly requesterRole: number
}

/** Every message between the services comes again: nothing may change by it. */
export const deliveries: Scenario = {
  name: "duplicate and late deliveries",
  run: async ({ workload, runs, random }) => {
    await workload.start(mixedShapes(runs, random.between(0, 2 ** 31)), 64)
  },
  async afterwards({ cluster, workload, faults, note }) {
    await untilTold(cluster, idsOf(workload))
    const before = await digestOfEverything(cluster, idsOf(workload))
    for (const call of await sentCalls(cluster, idsOf(workload))) {
      for (const epoch of new Set([call.epoch, Math.max(1, call.epoch - 1)])) {
        faults.count("Execute sent again")
        const answer = await execute(cluster, { ...call, epoch })
        const isRefused = epoch < call.epoch && answer === "LEASE_LOST"
        if (answer !== "replayed" && !isRefused) note(`${call.key} came again, and was ${answer}`)
      }
    }
    await tellAgain(cluster, idsOf(workload))
    faults.count("journal told again")
    const after = await digestOfEverything(cluster, idsOf(workload))
    for (const [table, digest] of after) {
      if (before.get(table) !== digest) note(`${table} changed by messages that came again`)
    }
  },
}

/**
 * An owner that was overtaken asks for the next step of its run, and must be refused: once for every
 * run that was taken over. Notes it where nobody was, since then nothing was shown.
 */
export async function hasBeenRefused({
  cluster,
  workload,
  faults,
  note,
}: ScenarioContext): Promise<void> {
  const overtaken = (await sentCalls(cluster, idsOf(workload))).filter(
    ({ epoch, stepIndex }) => epoch > 1 && stepIndex === 0,
  )
  for (const call of overtaken) {
    const { runId, stepCount, epoch } = call
    const stepIndex = stepCount
    const stale = { ...call, stepIndex, key: `${runId}/${stepIndex}`, epoch: epoch - 1 }
    const answer = await execute(cluster, stale)
    if (answer === "LEASE_LOST") faults.count("stale owner refused")
    else note(`a stale owner of run ${runId} was answered ${answer}`)
  }
  if (overtaken.length === 0) note("no run was taken over: no stale owner was there to refuse")
}

function idsOf(workload: ScenarioContext["workload"]): readonly string[] {
  return workload.workspaces.map(({ workspaceId }) => workspaceId)
}

async function sentCalls(cluster: Cluster, ids: readonly string[]): Promise<readonly SentCall[]> {
  await using database = await open(cluster, "orchestrator")
  return await database.query<SentCall>(
    `select c.workspace_id as "workspaceId", c.run_id as "runId", c.step_index as "stepIndex",
       r.step_count as "stepCount", c.idempotency_key as key, c.tool,
       c.definition_digest as "definitionDigest",
       case when c.is_literal then c.planned_arguments else c.arguments end as arguments, r.epoch::integer as epoch,
       r.requester_id as "requesterId", r.requester_role as "requesterRole"
     from tool_calls c join runs r using (workspace_id, run_id)
     where c.workspace_id = any ($1::uuid[]) and c.start_time is not null
     order by c.tool_call_id`,
    [ids],
  )
}

/** The reason of the refusal, or how the answer came about. */
async function execute(cluster: Cluster, call: SentCall): Promise<string> {
  const args = JSON.parse(call.arguments) as JsonObject
  const digest = digestOfStruct(args)
  const subject = memberSubject(call.workspaceId, call.requesterId, call.requesterRole as Role)
  try {
    const { replayed } = await cluster.client(ExecutionService, "tools", "orchestrator").execute(
      {
        ...{ workspaceId: call.workspaceId, runId: call.runId, stepIndex: call.stepIndex },
        idempotencyKey: call.key,
        tool: call.tool,
        definitionDigest: call.definitionDigest,
        arguments: args,
        argumentsDigest: digest,
        epoch: BigInt(call.epoch),
      },
      actingAs(subject, { call: { runId: call.runId, stepIndex: call.stepIndex, digest } }),
    )
    return replayed ? "replayed" : "executed"
  } catch (error) {
    return reasonOf(error) ?? String(error)
  }
}

/** Has telemetry told everything once more, from the first row of each journal. */
async function tellAgain(cluster: Cluster, ids: readonly string[]): Promise<void> {
  await using database = await open(cluster, "orchestrator")
  await database.query(
    `with back as (
       update journal_heads set delivered_position = 0 where workspace_id = any ($1::uuid[])
       returning workspace_id
     ) insert into journal_due (workspace_id) select workspace_id from back on conflict do nothing`,
    [ids],
  )
  await untilTold(cluster, ids)
}

/** Until telemetry has been told of everything in these workspaces. */
async function untilTold(cluster: Cluster, ids: readonly string[]): Promise<void> {
  await using database = await open(cluster, "orchestrator")
  for (;;) {
    const [row] = await database.query<{ due: number }>(
      "select count(*)::integer as due from journal_due where workspace_id = any ($1::uuid[])",
      [ids],
    )
    if (row?.due === 0) return
    await sleep(50)
  }
}

/** What changes by itself, whether messages come or not. */
const restless: ReadonlySet<string> = new Set(["telemetry.alert_evaluations_due"])

/** A digest of what every table holds of these workspaces. */
async function digestOfEverything(
  cluster: Cluster,
  ids: readonly string[],
): Promise<ReadonlyMap<string, string>> {
  const digests = new Map<string, string>()
  for (const service of ["orchestrator", "tools", "telemetry"] as const) {
    await using database = await open(cluster, service)
    const tables = await database.query<{ name: string }>(
      `select t.table_name as name from information_schema.tables t
       join information_schema.columns c using (table_schema, table_name)
       where t.table_schema = 'public' and t.table_type = 'BASE TABLE'
         and c.column_name = 'workspace_id'`,
    )
    for (const { name } of tables) {
      if (restless.has(`${service}.${name}`)) continue
      const [row] = await database.query<{ digest: string }>(
        `select md5(coalesce(string_agg(md5(t::text), '' order by md5(t::text)), '')) as digest
         from "${name}" t where workspace_id = any ($1::uuid[])`,
        [ids],
      )
      digests.set(`${service}.${name}`, row?.digest ?? "")
    }
  }
  return digests
}
