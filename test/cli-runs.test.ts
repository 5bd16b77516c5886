// The runwarden command against a whole mesh: threads, budgets, runs that begin later, bulk cancels.
import { expect, test } from "vitest"
import { newId } from "../mesh/ids.ts"
import { until } from "../mesh/testing.ts"
import { useCliFixture } from "./cli-process.ts"

const { cli, json, write } = useCliFixture()

const archive = ["run", "start", "--file", "examples/plans/archive-project.yaml"]
const listed =
  "name: look\nsteps:\n  - tool: project.list\n    timeout: 30s\n  - tool: project.list\n"

const stateOf = async (runId: string) => (await json(["run", "get", runId])).run.state

test("runs of a thread wait for each other, are refused, or take its place", async () => {
  const threadId = newId()
  const inThread = [...archive, "-q", "--thread", threadId]
  const first = (await cli(inThread)).stdout.trim()
  await until(async () => (await stateOf(first)) === "RUN_STATE_REQUIRES_ACTION")
  const second = (await cli(inThread)).stdout.trim()
  const shown = await cli(["thread", "get", threadId], "viewer")
  expect(shown.stdout).toContain(`run ${first} has its turn`)
  expect(shown.stdout).toContain(`run ${second} waits`)
  expect((await cli(["run", "get", second])).stdout).toContain("waits for its turn (thread_busy)")
  const refused = await cli([...inThread, "--on-busy-thread", "reject"])
  expect(refused.code).toBe(1)
  expect(refused.stderr).toContain("(THREAD_BUSY)")
  const third = (await cli([...inThread, "--on-busy-thread", "cancel_other"])).stdout.trim()
  expect(await stateOf(first)).toBe("RUN_STATE_CANCELLED")
  expect(await stateOf(second)).toBe("RUN_STATE_CANCELLED")
  const { threads } = await json(["thread", "list", "--busy"])
  expect(threads).toMatchObject([{ threadId, currentRunId: third, runCount: "3" }])
  await cli(["run", "cancel", third])
})

test("budgets are given, set, shown and held", async () => {
  const plan = write("look.yaml", listed)
  const short = await cli(["run", "start", "-f", plan, "--wait", "--max-tool-calls", "1"])
  expect(short.code).toBe(2)
  expect(short.stdout).toContain("budget exhausted")
  const stepped = await cli(["run", "start", "-f", plan, "-q", "--wait", "--max-steps", "1"])
  expect(stepped.code).toBe(2)
  const shown = await cli(["run", "get", stepped.stdout.trim().split("\n").at(-1) ?? ""])
  expect(shown.stdout).toMatch(/step +1 of 2, at most 1\n/)
  expect(shown.stdout).toMatch(/history +\d+ of 10000 entries\n/)
  expect(shown.stdout).toMatch(/data +\d[\d.]* (B|KiB) of 10 MiB\n/)
  expect((await cli(["budget", "set", "--daily-tokens", "5"])).stderr).toContain("(ROLE_TOO_LOW)")
  await cli(["budget", "set", "--daily-tool-calls", "1"], "admin")
  const set = await cli(["budget", "set", "--daily-tokens", "500"], "admin")
  expect(set.stdout).toMatch(/calls today +0 of 1\n/)
  expect(set.stdout).toMatch(/tokens today +0 of 500\n/)
  const none = await cli(["run", "start", "-f", plan, "--wait"])
  expect(none.code).toBe(2)
  expect((await cli(["budget", "show"], "viewer")).stdout).toMatch(/calls today +1 of 1\n/)
  const free = await cli(["budget", "set", "--daily-tool-calls", "0"], "admin")
  expect(free.stdout).toMatch(/calls today +1, any number\n/)
})

test("a run begins later, and many are ended at once", async () => {
  const plan = write("look.yaml", listed)
  const later = ["run", "start", "-f", plan, "-q", "--delay", "1h"]
  const ids = [(await cli(later)).stdout.trim(), (await cli(later)).stdout.trim()]
  expect((await cli(["run", "get", ids[0] ?? ""])).stdout).toContain("scheduled (scheduled)")
  const alone = write("alone.yaml", listed.replace("name: look", "name: alone"))
  const told = await cli(["run", "start", "-f", alone, "--delay", "2h"])
  expect(told.stdout).toMatch(/run \S+ is scheduled for .* \(in \d+ (h|min)\)/)
  const [, third = ""] = /run (\S+) is/.exec(told.stdout) ?? []
  const counting = ["run", "cancel", "--all", "--dry-run", "--state", "queued"]
  expect((await cli(counting, "admin")).stdout).toContain("3 runs fit; nothing was ended")
  const single = await cli([...counting, "--plan", "alone"], "admin")
  expect(single.stdout).toContain("1 run fits; nothing was ended")
  await cli(["run", "cancel", third])
  const wrong = await cli(["run", "start", "-f", plan, "--at", "tomorrow"])
  expect(wrong.stderr).toContain("--at must be a time")
  const all = ["run", "cancel", "--all", "--state", "queued", "--plan", "look"]
  expect((await cli(all)).stderr).toContain("(ROLE_TOO_LOW)")
  expect((await cli([...all, "--dry-run"], "admin")).stdout).toContain(
    "2 runs fit; nothing was ended",
  )
  expect((await cli(all, "admin")).stderr).toContain("--yes")
  expect(await stateOf(ids[0] ?? "")).toBe("RUN_STATE_QUEUED")
  const ended = await cli([...all, "--yes"], "admin")
  expect(ended.stdout).toContain("2 runs fit; 2 were ended")
  for (const id of ids) expect(await stateOf(id)).toBe("RUN_STATE_CANCELLED")
  const one = await cli(["run", "cancel"])
  expect(one.code).toBe(1)
})
