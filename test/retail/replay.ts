/**
 * Tasks replayed: each as one plan run in a workspace of its own, whose shop is a fresh copy. Whatever
 * then is not as the set expects it is a finding.
 */
import { isDeepStrictEqual } from "node:util"
import type { JsonValue } from "@bufbuild/protobuf"
import { RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import type { ToolCall } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { RiskClass } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { History } from "../adversity/history.ts"
import { Patience } from "../adversity/patience.ts"
import { People, type Performed } from "./people.ts"
import { retailTools } from "./provider.ts"
import { changedRecords, copyShop, countRows, type Records } from "./shop-data.ts"
import type { RetailCluster } from "./shops.ts"
import type { Task } from "./tasks.ts"

export interface ReplayOptions {
  readonly signal: AbortSignal
  /** Told of each run's end. */
  runEnded?(): void
}

export interface ReplayReport {
  readonly runs: number
  readonly calls: number
  /** HIGH calls, each confirmed by a person. */
  readonly confirmed: number
  /** Calls that needed more than one attempt. */
  readonly repeated: number
  readonly changedRecords: number
  readonly elapsedMs: number
  /** What is not as it should be; empty where all is well. */
  readonly findings: readonly string[]
}

/** What a task left in the tables of its workspace's shop. */
export interface Traces {
  readonly changed: Records
  /** Rows of calls that wrote, and of customers handed over. */
  readonly keys: number
  readonly handovers: number
}

/** Runs under way at once. */
const maxLive = 16
const writes = new Set(
  retailTools.filter(({ weight }) => weight !== "look").map(({ name }) => name),
)

export async function replay(
  { cluster, admin, pristineId }: RetailCluster,
  tasks: readonly Task[],
  { signal, runEnded }: ReplayOptions,
): Promise<ReplayReport> {
  const history = new History()
  const { edgeUrl: url, operatorKey } = cluster
  const people = new People({ url, operatorKey }, new Patience(history, [], signal))
  const work = await inTurns(tasks, async (task) => ({ task, place: await people.openPlace() }))
  const ids = work.map(({ place }) => place.workspaceId)
  await copyShop(admin, pristineId, ids)
  const startedAt = performance.now()
  const done = await inTurns(work, async ({ task, place }) => {
    const performed = await people.perform(task, place)
    runEnded?.()
    return { task, performed, workspaceId: place.workspaceId }
  })
  const elapsedMs = Math.round(performance.now() - startedAt)
  const changes = await changedRecords(admin, pristineId, ids)
  const keys = await countRows(admin, "keyed_calls", ids)
  const handovers = await countRows(admin, "handovers", ids)
  const findings = done.flatMap(({ task, performed, workspaceId }) => [
    ...callFindings(task, performed),
    ...traceFindings(task, {
      changed: changes.get(workspaceId) ?? {},
      keys: keys.get(workspaceId) ?? 0,
      handovers: handovers.get(workspaceId) ?? 0,
    }),
  ])
  for (const entry of history.entries) {
    if (entry.kind === "surprise") findings.push(`a client was told: ${entry.what}`)
  }
  const calls = done.flatMap(({ performed }) => performed?.calls ?? [])
  return {
    runs: done.filter(({ performed }) => performed !== undefined).length,
    calls: calls.length,
    confirmed: done.reduce((sum, { performed }) => sum + (performed?.confirmed ?? 0), 0),
    repeated: calls.filter(({ attempts }) => attempts > 1).length,
    changedRecords: ids.reduce((sum, id) => sum + Object.keys(changes.get(id) ?? {}).length, 0),
    elapsedMs,
    findings,
  }
}

/** What of a task's calls is not as it is expected to be; a task that asks for nothing has no run. */
export function callFindings(task: Task, performed: Performed | undefined): string[] {
  const { id, actions, results } = task
  if (performed === undefined) return actions.length === 0 ? [] : [`${id}: there was no run`]
  const { run, calls, confirmed } = performed
  const findings: string[] = []
  if (run.state !== RunState.SUCCEEDED) {
    findings.push(`${id}: the run ended in state ${run.state} (${run.reason})`)
  }
  for (const [n, { name }] of actions.entries()) {
    const answer = answerOf(name, calls[n])
    if (isDeepStrictEqual(answer, readExpected(results[n] ?? ""))) continue
    findings.push(`${id}: step ${n} (${name}) gave ${JSON.stringify(answer)}, not ${results[n]}`)
  }
  const high = calls.filter(({ riskClass }) => riskClass === RiskClass.HIGH)
  if (confirmed !== high.length || high.some(({ approvalId }) => approvalId === "")) {
    findings.push(`${id}: ${high.length} calls are HIGH, and ${confirmed} were confirmed`)
  }
  return findings
}

/** What of the tables after a task is not as it is expected to be. */
export function traceFindings(task: Task, { changed, keys, handovers }: Traces): string[] {
  const { id, actions, changedRecords: expected } = task
  const wrote = actions.filter(({ name }) => writes.has(name)).length
  const handedOver = actions.filter(({ name }) => name === "transfer_to_human_agents").length
  return [
    ...[...new Set([...Object.keys(changed), ...Object.keys(expected)])]
      .filter((key) => !isDeepStrictEqual(changed[key], expected[key]))
      .map((key) => `${id}: ${key} is ${JSON.stringify(changed[key]) ?? "as it was"}`),
    ...(keys === wrote ? [] : [`${id}: ${wrote} calls write, and ${keys} have`]),
    ...(handovers === handedOver ? [] : [`${id}: handed over ${handovers} times`]),
  ]
}

/** What a call gave, as the set writes it. */
function answerOf(tool: string, call: ToolCall | undefined): JsonValue | undefined {
  if (call?.outcome.case === "error") return `Error: ${call.outcome.value.message}`
  if (call?.outcome.case !== "result") return undefined
  const result = call.outcome.value
  switch (tool) {
    case "find_user_id_by_email":
    case "find_user_id_by_name_zip":
      return result.user_id
    case "list_all_product_types":
      return result.product_ids
    case "calculate":
      return result.value
    case "transfer_to_human_agents":
      return result.status
    default:
      return result
  }
}

function readExpected(text: string): JsonValue {
  try {
    return JSON.parse(text) as JsonValue
  } catch {
    return text
  }
}

/** The work for each item, in order, at most so many at once. */
async function inTurns<T, R>(
  items: readonly T[],
  work: (item: T) => Promise<R>,
): Promise<readonly R[]> {
  const results: R[] = []
  const next = items.entries()
  const worker = async () => {
    for (const [n, item] of next) results[n] = await work(item)
  }
  await Promise.all(Array.from({ length: maxLive }, worker))
  return results
}
