/** Membership, once revoked, ends what goes on: not only what waited. */
import { afterAll, afterEach, beforeAll, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"

const peers = createPeers()
const defaults = { ...peers.script }
let database: Awaited<ReturnType<typeof testDatabase>>

beforeAll(async () => {
  database = await testDatabase("orchestrator")
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(() => database[Symbol.asyncDispose]())

const revoked = () => ({ member: false, role: Role.UNSPECIFIED })

/** Holds the first step of every run until it is told to answer. */
function holdFirstStep() {
  const begun = Promise.withResolvers<void>()
  const gate = Promise.withResolvers<void>()
  peers.script.execute = async ({ stepIndex }) => {
    begun.resolve()
    if (stepIndex === 0) await gate.promise
    return {}
  }
  return { begun: begun.promise, open: () => gate.resolve() }
}

const steps = [{ tool: "low.keyed" }, { tool: "low.keyed" }]
const stepsOf = (runId: string) =>
  peers.effects.filter((effect) => effect.runId === runId).map(({ stepIndex }) => stepIndex)

it("a run under way admits nothing once an answer is too old and the next one is no", async () => {
  await using replica = await startOrchestrator({
    peers,
    database,
    executor: { membershipMs: 50 },
  })
  const me = inWorkspace(replica)
  const held = holdFirstStep()
  const run = await me.start(steps)
  await held.begun
  peers.script.member = revoked
  await new Promise((resolve) => setTimeout(resolve, 60))
  held.open()
  const ended = await me.reaches(run.runId, RunState.FAILED)
  expect(ended.reason).toBe("membership_revoked")
  expect(stepsOf(run.runId)).toEqual([0])
})

it("a run that another owner left is asked about, and waits while nobody can answer", async () => {
  const first = await startOrchestrator({ peers, database, executor: { drainMs: 1 } })
  const me = inWorkspace(first)
  const held = holdFirstStep()
  const run = await me.start(steps)
  await held.begun
  let asked = 0
  peers.script.member = () => {
    asked++
    throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "gateway" })
  }
  await first[Symbol.asyncDispose]()
  await using second = await startOrchestrator({ peers, database })
  const there = inWorkspace(second, me.workspaceId)
  held.open()
  await until(() => asked >= 2)
  expect(stepsOf(run.runId)).toEqual([0])
  peers.script.member = revoked
  const ended = await there.reaches(run.runId, RunState.FAILED)
  expect(ended.reason).toBe("membership_revoked")
  expect(stepsOf(run.runId)).toEqual([0])
})
