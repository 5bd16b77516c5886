/**
 * What must hold of every world, whatever was done to it. Each function names what breaks its
 * invariant; nothing named means that it holds.
 */
import { ToolCallState } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { approvedOnce, effectsByClass } from "./effect-invariants.ts"
import { historyIsWhole, terminalStays } from "./history-invariants.ts"
import { nothingIsStuck } from "./liveness.ts"
import {
  type ApprovalRow,
  type CallRow,
  effectsIn,
  lostIn,
  type RunRow,
  startedIn,
  type World,
} from "./world.ts"

export const invariants = {
  /** Every acknowledged StartRun exists exactly once. */
  I1: startedOnce,
  /** A terminal state never changes. */
  I2: terminalStays,
  /** Steps are contiguous, and each has at most one committed result. */
  I3: oneResultPerStep,
  /** Effects are as many as their class allows, and are those that were asked for. */
  I4: effectsByClass,
  /** Every effect of a HIGH call has exactly one consumed approval, given before by who may. */
  I5: approvedOnce,
  /** The journal's chain holds; every run's history is whole, with intent and outcome of each call. */
  I6: historyIsWhole,
  /** No row is of another workspace than its run's. */
  I7: nothingStrays,
  /** Every run has ended, or waits for something that will come. */
  I8: nothingIsStuck,
  /** What telemetry counts is the sum of what is stored. */
  I9: countsAddUp,
} as const satisfies Readonly<Record<string, (world: World) => string[]>>

export type InvariantName = keyof typeof invariants

export interface Violation {
  readonly invariant: InvariantName
  readonly what: string
}

export function checkAll(world: World): readonly Violation[] {
  return Object.entries(invariants).flatMap(([invariant, check]) =>
    check(world).map((what) => ({ invariant: invariant as InvariantName, what })),
  )
}

function startedOnce({ history, runs }: World): string[] {
  const byRequest = Map.groupBy(runs, ({ workspaceId, requestId }) => `${workspaceId} ${requestId}`)
  const lost = lostIn(history)
  const missing = startedIn(history).flatMap(({ workspaceId, runId, requestId }) => {
    if (lost.has(runId)) return []
    const found = byRequest.get(`${workspaceId} ${requestId}`) ?? []
    if (found.length === 1 && found[0]?.runId === runId) return []
    return [`request ${requestId} was answered run ${runId}; stored are ${ids(found)}`]
  })
  const twice = [...byRequest].flatMap(([request, found]) =>
    found.length === 1 ? [] : [`request ${request} made ${ids(found)}`],
  )
  return [...missing, ...twice]
}

function oneResultPerStep(world: World): string[] {
  const { runs, calls, events, executions, ledger } = world
  const broken: string[] = []
  const callsOf = Map.groupBy(calls, ({ runId }) => runId)
  for (const { runId, stepCount } of runs) {
    const steps = (callsOf.get(runId) ?? []).map(({ stepIndex }) => stepIndex).sort((a, b) => a - b)
    if (steps.length !== stepCount || steps.some((step, index) => step !== index)) {
      broken.push(`run ${runId} of ${stepCount} steps has steps ${steps.join(", ")}`)
    }
  }
  const ends = events.flatMap(({ runId, kind }) =>
    kind.case === "toolCallStateChanged" && endStates.has(kind.value.state)
      ? [`${runId}/${kind.value.stepIndex}`]
      : [],
  )
  for (const [key, found] of Map.groupBy(ends, (key) => key)) {
    if (found.length > 1) broken.push(`call ${key} ended ${found.length} times`)
  }
  const effects = Map.groupBy(effectsIn(ledger), ({ key }) => key)
  const executed = Map.groupBy(executions, ({ key }) => key)
  for (const [key, found] of executed) {
    if (found.length > 1) broken.push(`call ${key} has ${found.length} rows in the ledger`)
  }
  for (const { key, state, next } of calls) {
    if (state !== "succeeded") continue
    const given = effects.get(key)?.map(({ text }) => text) ?? []
    if (!given.includes(next)) broken.push(`call ${key} has a result that the tool never gave`)
    const stored = executed.get(key)?.[0]
    if (stored?.state === "succeeded" && stored.next !== next) {
      broken.push(`call ${key} has another result than the ledger`)
    }
  }
  return broken
}

function nothingStrays({ history, belongings, ledger }: World): string[] {
  const homes = new Map(startedIn(history).map(({ runId, workspaceId }) => [runId, workspaceId]))
  const known = new Set(
    belongings.flatMap(({ table, runId }) => (table === decisionsTable ? [] : [runId])),
  )
  for (const { runId } of ledger) known.add(runId)
  const judgedIn = Map.groupBy(belongings, ({ runId }) => runId)
  return belongings.flatMap(({ table, runId, workspaceId }) => {
    const home = homes.get(runId)
    if (home === workspaceId) return []
    // A run's first step is judged before the run is stored. Where it never was stored, nor told to
    // anybody, nor did anything, the decision is all that there is of it, in the one workspace.
    const isAllThereIs = home === undefined && !known.has(runId)
    if (isAllThereIs && judgedIn.get(runId)?.length === 1) return []
    return [`${table} has a row of run ${runId} in workspace ${workspaceId}, not ${home}`]
  })
}

function countsAddUp({ runs, calls, approvals, events, counts }: World): string[] {
  return [...counts].flatMap(([workspaceId, counted]) => {
    const here = <T extends { readonly workspaceId: string }>(rows: readonly T[]) =>
      rows.filter((row) => row.workspaceId === workspaceId)
    // Telemetry is told of states in which a call rests.
    const moved = here(calls).filter(({ state }) => !passingStates.has(state))
    const moderated = here(events).filter(({ kind }) => kind.case === "contentModerated").length
    return [
      ...differences(`runs of ${workspaceId}`, here(runs), counted.runs),
      ...differences(`calls of ${workspaceId}`, moved, counted.calls),
      ...differences(`approvals of ${workspaceId}`, here(approvals), counted.approvals),
      ...(moderated === counted.moderated
        ? []
        : [`${moderated} verdicts in ${workspaceId}, ${counted.moderated} counted`]),
    ]
  })
}

function differences(
  what: string,
  rows: readonly (RunRow | CallRow | ApprovalRow)[],
  counted: Readonly<Record<string, number>>,
): string[] {
  const stored = Map.groupBy(rows, ({ state }) => state)
  const states = new Set([...stored.keys(), ...Object.keys(counted)])
  return [...states].flatMap((state) => {
    const [is, says] = [stored.get(state)?.length ?? 0, counted[state] ?? 0]
    return is === says ? [] : [`${is} ${what} are ${state}, ${says} counted`]
  })
}

const decisionsTable = "moderation.decisions"

const passingStates: ReadonlySet<string> = new Set(["proposed", "moderating", "ready", "executing"])
const endStates: ReadonlySet<number> = new Set<number>([
  ToolCallState.SUCCEEDED,
  ToolCallState.FAILED,
  ToolCallState.DENIED,
  ToolCallState.EXPIRED,
  ToolCallState.CANCELLED,
])

function ids(runs: readonly RunRow[]): string {
  return runs.length === 0 ? "no run" : runs.map(({ runId }) => runId).join(", ")
}
