// A checker that cannot fail proves nothing: each invariant sees its seeded bugs, and only it does.
import { create } from "@bufbuild/protobuf"
import { describe, expect, test } from "vitest"
import { RunEventSchema } from "../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunState } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { checkAll, type InvariantName, invariants } from "./invariants.ts"
import { linkOf } from "./journal-chain.ts"
import { type ChangeableWorld, smallWorld } from "./small-world.ts"

const decisions = "moderation.decisions"

test("nothing is wrong with a world in which everything is right", () => {
  expect(checkAll(smallWorld())).toEqual([])
})

test("a run that was judged, and neither stored nor told to anybody, is no fault", () => {
  const world = smallWorld()
  world.belongings.push({ table: decisions, workspaceId: "w1", runId: "r9" })
  expect(checkAll(world)).toEqual([])
})

/** Bugs by the invariant that must notice; others may notice too where a bug breaks more. */
const seeded: Readonly<Record<InvariantName, Record<string, (world: ChangeableWorld) => void>>> = {
  I1: {
    "an acknowledged run is lost": (world) => {
      world.runs = world.runs.filter(({ runId }) => runId !== "r1")
    },
    "a request made two runs": ({ runs }) => {
      runs.push({ ...at(runs, 0), runId: "r9" })
    },
    "a request was answered with another run": ({ runs }) => {
      at(runs, 0).runId = "r9"
    },
  },
  I2: {
    "a run that was seen failed succeeded": ({ history }) => {
      const seen = at(
        history,
        history.findIndex(({ kind }) => kind === "run_seen"),
      )
      history.unshift({ ...seen, state: "failed", isTerminal: true } as never)
    },
    "a run that was seen succeeded is running": ({ runs }) => {
      at(runs, 0).state = "running"
    },
    "a run went on after its end": ({ events }) => {
      tell(events, "r1", { case: "runStateChanged", value: { state: RunState.RUNNING } })
    },
  },
  I3: {
    "a step is missing": (world) => {
      world.calls = world.calls.filter(({ key }) => key !== "r2/0")
    },
    "a step ended twice": ({ events }) => {
      const value = { stepIndex: 0, state: ToolCallState.FAILED }
      tell(events, "r1", { case: "toolCallStateChanged", value })
    },
    "a result was stored that the tool never gave": ({ calls }) => {
      at(calls, 0).next = "invented"
    },
    "the ledger has another result": ({ executions }) => {
      at(executions, 0).next = "another"
    },
    "the ledger has a call twice": ({ executions }) => {
      executions.push(at(executions, 0))
    },
  },
  I4: {
    "a keyed effect happened twice": (world) => repeatEffect(world, "r2/0"),
    "an unsafe effect happened twice": (world) => repeatEffect(world, "r3/0"),
    "a call succeeded without its effect": (world) => {
      world.ledger = world.ledger.filter(({ kind, key }) => kind !== "effect" || key !== "r1/0")
      at(world.calls, 0).next = ""
    },
    "a call was denied and took effect": ({ calls }) => {
      at(calls, 0).state = "denied"
    },
    "a call was called off as never executed and took effect": ({ calls }) => {
      Object.assign(call(calls, "r3/0"), { state: "failed", applied: "false" })
    },
    "an effect is of no run": ({ ledger }) => {
      ledger.push({ ...at(ledger, 1), key: "r9/0", runId: "r9" })
    },
    "other arguments were executed": ({ ledger }) => {
      at(ledger, 1).digest = "another"
    },
    "a call was sent without being recorded": ({ ledger }) => {
      ledger.push(at(ledger, 0))
    },
  },
  I5: {
    "a HIGH call has no approval": (world) => {
      world.approvals = []
    },
    "an approval was not used": ({ approvals }) => {
      at(approvals, 0).consumeTime = undefined
    },
    "two approvals were used": ({ approvals }) => {
      approvals.push({ ...at(approvals, 0), approvalId: "another" })
    },
    "the requester approved": ({ approvals }) => {
      at(approvals, 0).requesterId = "abe"
    },
    "somebody approved who is nobody": ({ approvals }) => {
      at(approvals, 0).deciderId = "eve"
    },
    "a member approved who may not": ({ approvals, history }) => {
      at(approvals, 0).deciderId = "mel"
      at(approvals, 0).requesterId = "ada"
      expect(history.some((entry) => "role" in entry && entry.role === "member")).toBe(true)
    },
    "something else was shown": ({ approvals }) => {
      at(approvals, 0).argumentsDigest = "another"
    },
    "another digest was executed": ({ calls }) => {
      call(calls, "r2/1").approvalDigest = "another"
    },
    "the yes came after its use": ({ approvals }) => {
      at(approvals, 0).decideTime = (at(approvals, 0).consumeTime ?? 0) + 1
    },
    "the effect came before the yes was used": ({ approvals }) => {
      at(approvals, 0).consumeTime = (at(approvals, 0).consumeTime ?? 0) + 10_000
    },
    "a yes was used that had expired": ({ approvals }) => {
      at(approvals, 0).expireTime = 0
    },
  },
  I6: {
    "a row of the journal was altered": ({ journal }) => {
      at(journal, 3).entries = Buffer.from("another")
    },
    "a row of the journal was taken out": ({ journal }) => {
      journal.splice(3, 1)
    },
    "two rows of the journal changed places": ({ journal }) => {
      const [first, second] = [at(journal, 3), at(journal, 4)]
      ;[first.entries, second.entries] = [second.entries, first.entries]
    },
    "the end of the journal was cut off": (world) => {
      world.journal = world.journal.filter(
        ({ workspaceId, position }) => workspaceId !== "w1" || position < 5,
      )
    },
    "the journal was chained anew from an altered row": ({ journal }) => {
      rechain(journal, 3)
    },
    "all of the journal is gone, with its head": (world) => {
      world.journal = world.journal.filter(({ workspaceId }) => workspaceId !== "w1")
      world.events = world.events.filter(({ workspaceId }) => workspaceId !== "w1")
      world.heads = world.heads.filter(({ workspaceId }) => workspaceId !== "w1")
    },
    "the head is gone": (world) => {
      world.heads = []
    },
    "an event is missing": (world) => {
      world.events = world.events.filter(({ runId, sequence }) => runId !== "r1" || sequence !== 3)
    },
    "the last events are missing": (world) => {
      world.events = world.events.filter(({ runId, sequence }) => runId !== "r1" || sequence < 5)
    },
    "a call has no intent": ({ events }) => {
      const intent = events.findIndex(({ kind }) => isTold(kind, ToolCallState.EXECUTING))
      at(events, intent).kind = moderating
    },
    "a call has no outcome": ({ events }) => {
      const outcome = events.findIndex(({ kind }) => isTold(kind, ToolCallState.SUCCEEDED))
      at(events, outcome).kind = moderating
    },
    "the outcome came before the intent": ({ events }) => {
      const intent = events.findIndex(({ kind }) => isTold(kind, ToolCallState.EXECUTING))
      const [first, second] = [at(events, intent), at(events, intent + 1)]
      ;[first.kind, second.kind] = [second.kind, first.kind]
    },
  },
  I7: {
    "a row is in another workspace": ({ belongings }) => {
      at(belongings, 0).workspaceId = "w2"
    },
    "a decision is in another workspace": ({ belongings }) => {
      belongings.push({ table: decisions, workspaceId: "w2", runId: "r1" })
    },
    "a run that nobody was told of is stored": ({ belongings }) => {
      belongings.push({ table: decisions, workspaceId: "w1", runId: "r9" })
      belongings.push({ table: "orchestrator.runs", workspaceId: "w1", runId: "r9" })
    },
    "a call of a run that nobody was told of is recorded": ({ belongings }) => {
      belongings.push({ table: decisions, workspaceId: "w1", runId: "r9" })
      belongings.push({ table: "tools.executions", workspaceId: "w1", runId: "r9" })
    },
    "a run that nobody was told of was sent to its tool": ({ belongings, ledger }) => {
      belongings.push({ table: decisions, workspaceId: "w1", runId: "r9" })
      ledger.push({ ...at(ledger, 0), key: "r9/0", runId: "r9" })
    },
    "a run that nobody was told of was judged in two workspaces": ({ belongings }) => {
      belongings.push({ table: decisions, workspaceId: "w1", runId: "r9" })
      belongings.push({ table: decisions, workspaceId: "w2", runId: "r9" })
    },
  },
  I8: {
    "a run has no owner and no claim": ({ runs }) => {
      Object.assign(at(runs, 0), { state: "running", isEnded: false })
    },
    "a run has a dead owner": (world) => claim(world, { isOwned: true, dueTime: world.now - 1 }),
    "a run without an owner is not due for a day": (world) =>
      claim(world, { isOwned: false, dueTime: world.now + 80_000_000 }),
    "a run waits for an answer that nobody was asked for": (world) => {
      claim(world, { isOwned: false, dueTime: world.now + 80_000_000 })
      at(world.runs, 0).state = "requires_action"
    },
    "a run that has ended is claimed": ({ claims, now }) => {
      claims.push({ workspaceId: "w1", runId: "r1", isOwned: true, dueTime: now + 1_000 })
    },
  },
  I9: {
    "a run was not counted": ({ runs }) => {
      at(runs, 0).state = "failed"
    },
    "a call was counted twice": ({ calls }) => {
      calls.pop()
    },
    "an approval was not counted": ({ approvals }) => {
      at(approvals, 0).state = "rejected"
    },
    "a verdict was not counted": (world) => {
      const verdict = world.events.findIndex(({ kind }) => kind.case === "contentModerated")
      world.events.splice(verdict, 1)
    },
  },
}

describe.each(Object.keys(invariants) as InvariantName[])("%s", (invariant) => {
  test.each(Object.entries(seeded[invariant]))("notices: %s", (_, breakIt) => {
    const world = smallWorld()
    breakIt(world)
    const noticed = new Set(checkAll(world).map((violation) => violation.invariant))
    expect([...noticed]).toContain(invariant)
  })
})

function at<T>(rows: readonly T[], index: number): T {
  const row = rows[index]
  if (row === undefined) throw new Error(`no row ${index}`)
  return row
}

function call(calls: ChangeableWorld["calls"], key: string) {
  return at(
    calls,
    calls.findIndex((each) => each.key === key),
  )
}

function repeatEffect({ ledger, executions }: ChangeableWorld, key: string): void {
  ledger.push({
    ...at(
      ledger,
      ledger.findIndex((line) => line.kind === "effect" && line.key === key),
    ),
  })
  at(
    executions,
    executions.findIndex((row) => row.key === key),
  ).attempts += 1
}

function claim(
  { claims, runs }: ChangeableWorld,
  { isOwned, dueTime }: { readonly isOwned: boolean; readonly dueTime: number },
): void {
  const run = at(runs, 0)
  Object.assign(run, { state: "running", isEnded: false })
  claims.push({ workspaceId: run.workspaceId, runId: run.runId, isOwned, dueTime })
}

/** What somebody would do who may write the rows, but not the head. */
function rechain(journal: ChangeableWorld["journal"], from: number): void {
  const altered = at(journal, from)
  altered.entries = Buffer.from("another")
  const chain = journal.filter(({ workspaceId }) => workspaceId === altered.workspaceId)
  let hash = at(chain, altered.position - 2).hash
  for (const row of chain.slice(altered.position - 1)) {
    hash = linkOf(hash, row)
    row.hash = hash
  }
}

type EventKind = ChangeableWorld["events"][number]["kind"]

const moderating: EventKind = { case: undefined }

function isTold(kind: EventKind, state: ToolCallState): boolean {
  return kind.case === "toolCallStateChanged" && kind.value.state === state
}

function tell(events: ChangeableWorld["events"], runId: string, kind: object): void {
  const last = events.findLast((event) => event.runId === runId)
  if (last === undefined) throw new Error(`nothing was told of ${runId}`)
  const told = create(RunEventSchema, { kind } as never).kind
  events.push({ ...last, sequence: last.sequence + 1, kind: told })
}
