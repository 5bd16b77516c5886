/** A world in which everything is right: three runs, one step of them with an approval. */
import { create } from "@bufbuild/protobuf"
import { ApprovalState } from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { type RunEvent, RunEventSchema } from "../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import type { EffectClass, ExpectedStep } from "./history.ts"
import { linkOf } from "./journal-chain.ts"
import type { LedgerLine } from "./ledger-file.ts"
import { planRun, type RunShape } from "./plans.ts"
import type { Belonging, EventRow, World } from "./world.ts"

/** A world whose parts can be changed, to see what notices. */
export type ChangeableWorld = {
  -readonly [Part in keyof World]: World[Part] extends readonly (infer Row)[]
    ? { -readonly [Member in keyof Row]: Row[Member] }[]
    : World[Part]
}

const workspaces = ["w1", "w2"] as const
const start = 1_000_000

export function smallWorld(): ChangeableWorld {
  const world: ChangeableWorld = {
    history: [],
    now: start + 60_000,
    runs: [],
    calls: [],
    approvals: [],
    claims: [],
    executions: [],
    journal: [],
    heads: [],
    events: [],
    belongings: [],
    ledger: [],
    counts: new Map(),
  }
  for (const workspaceId of workspaces) {
    world.history.push(
      { at: start, kind: "member_added", workspaceId, actorId: "mel", role: "member" },
      { at: start, kind: "member_added", workspaceId, actorId: "abe", role: "approver" },
    )
  }
  addRun(world, "w1", "r1", { effect: "read", stepCount: 2 })
  addRun(world, "w1", "r2", { effect: "keyed", stepCount: 2, highStep: 1 })
  addRun(world, "w2", "r3", { effect: "unsafe", stepCount: 2 })
  for (const workspaceId of workspaces) {
    const here = <T extends { readonly workspaceId: string }>(rows: readonly T[]) =>
      rows.filter((row) => row.workspaceId === workspaceId).length
    ;(world.counts as Map<string, unknown>).set(workspaceId, {
      runs: { succeeded: here(world.runs) },
      calls: { succeeded: here(world.calls) },
      approvals: here(world.approvals) === 0 ? {} : { approved: here(world.approvals) },
      moderated: here(world.calls),
    })
  }
  return world
}

function addRun(world: ChangeableWorld, workspaceId: string, runId: string, shape: RunShape) {
  const { steps } = planRun(runId, shape)
  const at = start + 1_000
  const requestId = `request of ${runId}`
  const events = addEvents(world, workspaceId, runId)
  world.history.push(
    { at, kind: "run_started", workspaceId, runId, requestId, requesterId: "mel", steps },
    { at: at + 9_000, kind: "run_seen", workspaceId, runId, state: "succeeded", isTerminal: true },
  )
  world.runs.push({
    ...{ workspaceId, runId, requestId, state: "succeeded", reason: "", requesterId: "mel" },
    stepCount: steps.length,
    deadline: start + 86_400_000,
    isEnded: true,
  })
  events({ case: "runStarted", value: {} })
  events({ case: "runStateChanged", value: { state: RunState.RUNNING } })
  let text = runId
  for (const [stepIndex, step] of steps.entries()) {
    text = `${text}.`
    addStep(world, {
      workspaceId,
      runId,
      stepIndex,
      step,
      text,
      at: at + 1_000 * stepIndex,
      events,
    })
  }
  events({ case: "runStateChanged", value: { state: RunState.SUCCEEDED } })
  for (const table of ["orchestrator.runs", "tools.executions"]) {
    const belonging: Belonging = { table, workspaceId, runId }
    world.belongings.push(belonging)
  }
}

interface Step {
  readonly workspaceId: string
  readonly runId: string
  readonly stepIndex: number
  readonly step: ExpectedStep
  /** The result's text. */
  readonly text: string
  readonly at: number
  events(kind: EventInit): void
}

function addStep(world: ChangeableWorld, given: Step): void {
  const { workspaceId, runId, stepIndex, step, text, at, events } = given
  const key = `${runId}/${stepIndex}`
  const told = (state: ToolCallState) =>
    events({ case: "toolCallStateChanged", value: { stepIndex, state } })
  told(ToolCallState.MODERATING)
  events({ case: "contentModerated", value: { stepIndex } })
  if (step.isHigh) {
    const [approvalId, digest] = [`approval of ${key}`, `digest of ${key}`]
    events({ case: "approvalStateChanged", value: { approvalId, state: ApprovalState.APPROVED } })
    world.history.push({
      ...{ at: at + 100, kind: "approval_decided", workspaceId, runId, approvalId, digest },
      ...{ deciderId: "abe", answer: "approved" },
    } as World["history"][number])
    world.approvals.push({
      ...{ workspaceId, approvalId, runId, stepIndex, state: "approved", digest },
      argumentsDigest: step.digest,
      requesterId: "mel",
      deciderId: "abe",
      isDistinct: true,
      expireTime: start + 86_400_000,
      decideTime: at + 100,
      consumeTime: at + 200,
    })
  }
  told(ToolCallState.EXECUTING)
  told(ToolCallState.SUCCEEDED)
  world.calls.push({
    ...{ workspaceId, runId, stepIndex, key, tool: step.tool, state: "succeeded", reason: "" },
    riskClass: step.isHigh ? "high" : "low",
    argumentsDigest: step.digest,
    approvalDigest: step.isHigh ? `digest of ${key}` : "",
    next: text,
    applied: "",
  })
  world.executions.push({
    ...{ workspaceId, runId, stepIndex, key, state: "succeeded", attempts: 1, next: text },
  })
  const line: LedgerLine = {
    kind: "attempt",
    at: at + 300,
    workspaceId,
    tool: step.tool.slice("ledger/".length),
    key,
    effect: step.effect as EffectClass,
    digest: step.digest,
    actorId: "mel",
    runId,
    text,
  }
  world.ledger.push(line, { ...line, kind: "effect" })
}

type EventInit = NonNullable<Parameters<typeof create<typeof RunEventSchema>>[1]>["kind"]

function addEvents(world: ChangeableWorld, workspaceId: string, runId: string) {
  let sequence = 0
  return (init: EventInit): void => {
    sequence += 1
    const kind: RunEvent["kind"] = create(RunEventSchema, { kind: init } as never).kind
    const row: EventRow = { workspaceId, runId, sequence, kind }
    world.events.push(row)
    append(world, row)
  }
}

/** A row of the journal for each event, and the head that follows it. */
function append(world: ChangeableWorld, { workspaceId, runId, sequence }: EventRow): void {
  const head = world.heads.find((each) => each.workspaceId === workspaceId)
  const row = {
    ...{ workspaceId, runId, position: (head?.position ?? 0) + 1, firstSequence: sequence },
    entryCount: 1,
    createMicros: BigInt(start) * 1_000n,
    entries: Buffer.from(`event ${sequence} of ${runId}`),
  }
  const hash = linkOf(head?.hash ?? "00".repeat(32), row)
  world.journal.push({ ...row, hash })
  if (head === undefined) world.heads.push({ workspaceId, position: 1, hash })
  else Object.assign(head, { position: row.position, hash })
}
