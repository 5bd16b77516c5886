import { expect, test } from "vitest"
import { reachOf } from "./reach.ts"
import { type ChangeableWorld, smallWorld } from "./small-world.ts"

/** The provider of the small world died while its runs were under way. */
const death = { process: "ledger", cause: "signal", detail: "" } as const

/** The runs, and when each of them was acknowledged. */
const startOf = (world: ChangeableWorld) =>
  world.history.find(({ kind }) => kind === "run_started")?.at ?? 0

/** Takes from the provider's file what it knew of a run. */
function neverArrived(world: ChangeableWorld, runId: string): void {
  world.ledger = world.ledger.filter((line) => line.runId !== runId)
}

test("a run got as far as a tool where the tool's own file says so", () => {
  const world = smallWorld()
  expect(reachOf(world, [])).toEqual({ executed: 3, lost: 0 })
  neverArrived(world, "r1")
  expect(reachOf(world, [])).toEqual({ executed: 2, lost: 0 })
})

test("one that has not ended got nowhere yet", () => {
  const world = smallWorld()
  const [run] = world.runs
  if (run !== undefined) run.isEnded = false
  expect(reachOf(world, [])).toEqual({ executed: 2, lost: 0 })
})

test("an unsafe call is lost with the provider, and with nothing else", () => {
  const world = smallWorld()
  neverArrived(world, "r3")
  const at = startOf(world) + 1_000
  expect(reachOf(world, [])).toEqual({ executed: 2, lost: 0 })
  expect(reachOf(world, [{ ...death, at: at + 60_000 }])).toEqual({ executed: 2, lost: 0 })
  expect(reachOf(world, [{ ...death, at }])).toEqual({ executed: 2, lost: 1 })
})

test("a call that is repeated, and one that was never sent, are not lost with it", () => {
  for (const runId of ["r1", "r2"]) {
    const world = smallWorld()
    neverArrived(world, runId)
    const deaths = [{ ...death, at: startOf(world) + 1_000 }]
    expect(reachOf(world, deaths)).toEqual({ executed: 2, lost: 0 })
  }
  const world = smallWorld()
  neverArrived(world, "r3")
  world.executions = world.executions.filter(({ runId }) => runId !== "r3")
  const deaths = [{ ...death, at: startOf(world) + 1_000 }]
  expect(reachOf(world, deaths)).toEqual({ executed: 2, lost: 0 })
})
