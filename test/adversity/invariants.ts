/**
 * What must hold of every world, whatever was done to it. Each function names what breaks its
 * invariant; nothing named means that it holds.
 */
import { RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import type { ExpectedStep, HistoryEntry, StartedRun } from "./history.ts"
import { faultOfChain } from "./journal-chain.ts"
import type { LedgerLine } from "./ledger-file.ts"
import type { ApprovalRow, CallRow, ClaimRow, EventRow, RunRow, World } from "./world.ts"

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

function terminalStays({ history, runs, events }: World): string[] {
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

function effectsByClass({ history, calls, executions, ledger }: World): string[] {
  const broken: string[] = []
  const started = new Map(startedIn(history).map((run) => [run.runId, run]))
  const callOf = new Map(calls.map((call) => [call.key, call]))
  const effects = Map.groupBy(effectsIn(ledger), ({ key }) => key)
  const attempts = Map.groupBy(
    ledger.filter(({ kind }) => kind === "attempt"),
    ({ key }) => key,
  )
  const rows = new Map(executions.map((row) => [row.key, row]))
  for (const [key, lines] of attempts) {
    const counted = rows.get(key)?.attempts ?? 0
    if (lines.length > counted)
      broken.push(`call ${key} was sent ${lines.length} times, ${counted} recorded`)
  }
  for (const [key, lines] of effects) {
    const step = started.get(lines[0]?.runId ?? "")?.steps[Number(key.split("/").at(-1))]
    if (step === undefined) {
      broken.push(`call ${key} took effect and is of no run`)
      continue
    }
    for (const { digest, tool } of lines) {
      if (digest !== step.digest) broken.push(`call ${key} took effect with other arguments`)
      if (`ledger/${tool}` !== step.tool) broken.push(`call ${key} took effect at ${tool}`)
    }
  }
  for (const run of started.values()) {
    for (const [index, step] of run.steps.entries()) {
      const key = `${run.runId}/${index}`
      const found = faultOf(step, callOf.get(key), effects.get(key)?.length ?? 0)
      if (found !== undefined) broken.push(`${step.effect} call ${key}: ${found}`)
    }
  }
  return broken
}

/** What is wrong with so many effects of a call. */
function faultOf(
  { effect, mode }: ExpectedStep,
  call: CallRow | undefined,
  count: number,
): string | undefined {
  if (effect !== "read" && count > 1) return `${count} effects`
  if (call === undefined) return undefined
  if (call.state === "succeeded" && count === 0) return "succeeded without an effect"
  if (unsentStates.has(call.state) && count > 0) return `${call.state}, and took effect`
  if (call.state === "failed" && call.applied === "false" && effect !== "read" && count > 0) {
    return "failed as never executed, and took effect"
  }
  if (call.state === "failed" && call.applied === "true" && count === 0) {
    return "failed as executed, and took no effect"
  }
  if (mode === "error" && count > 0) return "an error that took effect"
  return undefined
}

function approvedOnce({ history, calls, approvals, ledger }: World): string[] {
  const people = history.filter((entry) => entry.kind === "member_added")
  const decided = history.filter((entry) => entry.kind === "approval_decided")
  const callOf = new Map(calls.map((call) => [call.key, call]))
  const consumed = Map.groupBy(
    approvals.filter(({ consumeTime }) => consumeTime !== undefined),
    ({ runId, stepIndex }) => `${runId}/${stepIndex}`,
  )
  const lost = lostIn(history)
  const restoredAt = Math.max(
    ...history.map(({ kind, at }) => (kind === "restored" ? at : Number.NEGATIVE_INFINITY)),
  )
  const high = effectsIn(ledger).filter(
    ({ tool, runId }) => tool.endsWith(".high") && !lost.has(runId),
  )
  return high.flatMap((line) => {
    const used = consumed.get(line.key) ?? []
    const [approval] = used
    if (approval === undefined || used.length > 1) {
      return [`HIGH call ${line.key} took effect with ${used.length} approvals`]
    }
    const isDecider = people.some(
      ({ actorId, workspaceId, role, at }) =>
        actorId === approval.deciderId &&
        workspaceId === line.workspaceId &&
        role !== "member" &&
        at <= (approval.decideTime ?? 0) + clockSlackMs,
    )
    const answer = decided.find(({ approvalId }) => approvalId === approval.approvalId)
    const call = callOf.get(line.key)
    const wrong = {
      "is not approved": approval.state !== "approved",
      "was used before it was given":
        (approval.decideTime ?? Number.POSITIVE_INFINITY) > (approval.consumeTime ?? 0),
      // An effect from before a restore had a yes that the restore undid; it was given again.
      "was used after the effect":
        line.at > restoredAt && (approval.consumeTime ?? 0) > line.at + clockSlackMs,
      "was of other arguments": approval.argumentsDigest !== line.digest,
      "is not the one of the call": call?.approvalDigest !== approval.digest,
      "was given by nobody who may": !isDecider,
      "was given by the requester":
        approval.isDistinct && approval.deciderId === approval.requesterId,
      "was used when it had expired": (approval.consumeTime ?? 0) > approval.expireTime,
      "was acknowledged with another digest":
        answer !== undefined && answer.digest !== approval.digest,
    }
    return Object.entries(wrong).flatMap(([what, is]) =>
      is ? [`the approval of HIGH call ${line.key} ${what}`] : [],
    )
  })
}

function historyIsWhole({ runs, calls, events, journal, heads }: World): string[] {
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

function nothingIsStuck({ runs, calls, approvals, claims, now }: World): string[] {
  const claimOf = new Map(claims.map((claim) => [claim.runId, claim]))
  const pending = new Set(
    approvals
      .filter(({ state, expireTime }) => state === "pending" && expireTime > now)
      .map(({ runId }) => runId),
  )
  const unknown = new Set(
    calls.filter(({ state }) => state === "outcome_unknown").map(({ runId }) => runId),
  )
  return runs.flatMap((run) => {
    if (run.isEnded) return claimOf.has(run.runId) ? [`run ${run.runId} ended, and is claimed`] : []
    const claim = claimOf.get(run.runId)
    const isSetAside = run.reason === "quarantined"
    const isAnswerable = pending.has(run.runId) || unknown.has(run.runId) || isSetAside
    const why = stuckBy(run, claim, isAnswerable, now)
    return why === undefined ? [] : [`run ${run.runId} (${run.state}) ${why}`]
  })
}

function stuckBy(
  { state, deadline }: RunRow,
  claim: ClaimRow | undefined,
  isAnswerable: boolean,
  now: number,
): string | undefined {
  if (claim === undefined) return "is nobody's, and nobody will look at it"
  if (claim.dueTime > deadline + graceMs) return "is looked at only after its deadline"
  if (claim.isOwned) return claim.dueTime > now ? undefined : "has a dead owner"
  if (state === "requires_action") {
    if (isAnswerable) return undefined
    return claim.dueTime <= now + graceMs ? undefined : "waits for nothing"
  }
  return claim.dueTime <= now + graceMs ? undefined : "has no owner, and is not due"
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

/** Two processes of one machine; a commit's time is that of its begin. */
const clockSlackMs = 50
const graceMs = 60_000

const unsentStates: ReadonlySet<string> = new Set([
  "proposed",
  "moderating",
  "awaiting_approval",
  "ready",
  "denied",
  "expired",
  "cancelled",
])
const passingStates: ReadonlySet<string> = new Set(["proposed", "moderating", "ready", "executing"])
const executedStates: ReadonlySet<string> = new Set([
  "executing",
  "outcome_unknown",
  "succeeded",
  "failed",
])
const outcomeStates: ReadonlySet<string> = new Set(["outcome_unknown", "succeeded", "failed"])
const endStates: ReadonlySet<number> = new Set<number>([
  ToolCallState.SUCCEEDED,
  ToolCallState.FAILED,
  ToolCallState.DENIED,
  ToolCallState.EXPIRED,
  ToolCallState.CANCELLED,
])
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

function startedIn(history: readonly HistoryEntry[]): readonly StartedRun[] {
  return history.filter((entry) => entry.kind === "run_started")
}

/** Runs that a restore undid. */
function lostIn(history: readonly HistoryEntry[]): ReadonlySet<string> {
  return new Set(history.flatMap((entry) => (entry.kind === "run_lost" ? [entry.runId] : [])))
}

function effectsIn(ledger: readonly LedgerLine[]): readonly LedgerLine[] {
  return ledger.filter(({ kind }) => kind === "effect")
}

function ids(runs: readonly RunRow[]): string {
  return runs.length === 0 ? "no run" : runs.map(({ runId }) => runId).join(", ")
}
