/** What must hold of effects: how many there are, and that those of HIGH calls were approved. */
import type { ExpectedStep } from "./history.ts"
import { type CallRow, effectsIn, lostIn, startedIn, type World } from "./world.ts"

/** Effects are as many as their class allows, and are those that were asked for. */
export function effectsByClass({ history, calls, executions, ledger }: World): string[] {
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

/** Every effect of a HIGH call has exactly one consumed approval, given before by who may. */
export function approvedOnce({ history, calls, approvals, ledger }: World): string[] {
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

/** Two processes of one machine; a commit's time is that of its begin. */
const clockSlackMs = 50
const unsentStates: ReadonlySet<string> = new Set([
  "proposed",
  "moderating",
  "awaiting_approval",
  "ready",
  "denied",
  "expired",
  "cancelled",
])
