/** What must hold of what runs say of themselves: that an end stays one, and that a history is whole. */
import { RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { faultOfChain } from "./journal-chain.ts"
import type { EventRow, World } from "./world.ts"

/** A terminal state never changes. */
export function terminalStays({ history, runs, events }: World): string[] {
  const broken: string[] = []
  const ended = new Map<string, string>()
  for (const entry of history) {
    if (entry.kind === "restored") ended.clear()
    if (entry.kind !== "run_seen") continue
    const before = ended.get(entry.runId)
    if (before !== undefined && before !== entry.state) {
      broken.push(`run ${entry.runId} was seen ${before}, then ${entry.state}`)
    }
    if (entry.isTerminal && before === undefined) ended.set(entry.runId, entry.state)
  }
  for (const { runId, state } of runs) {
    const seen = ended.get(runId)
    if (seen !== undefined && seen !== state) {
      broken.push(`run ${runId} was seen ${seen} and is ${state}`)
    }
  }
  for (const [runId, listed] of Map.groupBy(events, (event) => event.runId)) {
    const end = listed.findIndex(({ kind }) => isEnd(kind))
    const after = end < 0 ? undefined : listed.slice(end + 1).find(({ kind }) => isRunState(kind))
    if (after !== undefined) broken.push(`run ${runId} changed at ${after.sequence}, after its end`)
  }
  return broken
}

/** The journal's chain holds; every run's history is whole, with intent and outcome of each call. */
export function historyIsWhole({ runs, calls, events, journal, heads }: World): string[] {
  const rowsOf = Map.groupBy(journal, ({ workspaceId }) => workspaceId)
  const broken = heads.flatMap((head) => {
    const fault = faultOfChain(rowsOf.get(head.workspaceId) ?? [], head)
    return fault === undefined ? [] : [`the journal of ${head.workspaceId} ${fault}`]
  })
  for (const workspaceId of rowsOf.keys()) {
    if (heads.some((head) => head.workspaceId === workspaceId)) continue
    broken.push(`the journal of ${workspaceId} has no head`)
  }
  const eventsOf = Map.groupBy(events, ({ runId }) => runId)
  for (const { runId, state } of runs) {
    const listed = eventsOf.get(runId) ?? []
    const gap = listed.findIndex(({ sequence }, index) => sequence !== index + 1)
    if (gap >= 0) broken.push(`run ${runId} has no event ${gap + 1}`)
    if (listed[0]?.kind.case !== "runStarted") broken.push(`run ${runId} never started`)
    const last = listed.findLast(({ kind }) => isRunState(kind))
    if (stateOf(last) !== state) broken.push(`run ${runId} is ${state}, told as ${stateOf(last)}`)
  }
  for (const { key, runId, stepIndex, state } of calls) {
    const told = (eventsOf.get(runId) ?? []).flatMap(({ kind }) =>
      kind.case === "toolCallStateChanged" && kind.value.stepIndex === stepIndex
        ? [callStateNames.get(kind.value.state) ?? ""]
        : [],
    )
    if (state !== "proposed" && told.at(-1) !== state) {
      broken.push(`call ${key} is ${state}, told as ${told.at(-1)}`)
    }
    const intent = told.indexOf("executing")
    if (executedStates.has(state) && intent < 0) broken.push(`call ${key} has no intent`)
    const outcome = told.findIndex((each) => outcomeStates.has(each))
    if (outcome >= 0 && outcome < intent)
      broken.push(`call ${key} has its outcome before its intent`)
  }
  return broken
}

const executedStates: ReadonlySet<string> = new Set([
  "executing",
  "outcome_unknown",
  "succeeded",
  "failed",
])
const outcomeStates: ReadonlySet<string> = new Set(["outcome_unknown", "succeeded", "failed"])
const endedRunStates: ReadonlySet<number> = new Set<number>([
  RunState.SUCCEEDED,
  RunState.FAILED,
  RunState.CANCELLED,
  RunState.EXPIRED,
])
const callStateNames = namesOf(ToolCallState)
const runStateNames = namesOf(RunState)

function namesOf(states: Readonly<Record<string, number>>): ReadonlyMap<number, string> {
  return new Map(Object.entries(states).map(([name, value]) => [value, name.toLowerCase()]))
}

function isRunState(kind: EventRow["kind"]): boolean {
  return kind.case === "runStateChanged"
}

function isEnd(kind: EventRow["kind"]): boolean {
  return kind.case === "runStateChanged" && endedRunStates.has(kind.value.state)
}

function stateOf(event: EventRow | undefined): string | undefined {
  const { kind } = event ?? {}
  return kind?.case === "runStateChanged" ? runStateNames.get(kind.value.state) : undefined
}
