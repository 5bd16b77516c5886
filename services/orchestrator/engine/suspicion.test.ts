/** Who is blamed when an owner vanishes: the run that something was done about, and no other. */
import { fork } from "node:child_process"
import { once } from "node:events"
import { fileURLToPath } from "node:url"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { RunState } from "../../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { type Connection, connect } from "../../../mesh/database.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { actingAs, memberSubject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, until } from "../../../mesh/testing.ts"
import { createPeers, inWorkspace, startOrchestrator } from "../orchestrator-harness.ts"

const peers = createPeers()
const defaults = { ...peers.script }
let database: Awaited<ReturnType<typeof testDatabase>>
let worker: Connection

beforeAll(async () => {
  database = await testDatabase("orchestrator")
  worker = await connect(database.workerUrl)
})
afterEach(() => {
  Object.assign(peers.script, defaults)
})
afterAll(async () => {
  await worker[Symbol.asyncDispose]()
  await database[Symbol.asyncDispose]()
})

/** A replica that does nothing about a run that is taken from it. */
const startVictim = () =>
  startOrchestrator({ peers, database, executor: { leaseMs: 60_000, pollMs: 60_000 } })
const startHeir = () => startOrchestrator({ peers, database, executor: { leaseMs: 2_000 } })

/** As if owners had vanished over the runs, so many times while their first call executed. */
async function vanish(runIds: readonly string[], crashes: number): Promise<void> {
  await worker.query(
    `update run_claims set owner = $2::uuid, epoch = epoch + 1, due_time = now(),
       crashes = $3::integer, place = '0 executing' where run_id = any ($1::uuid[])`,
    [runIds, newId(), crashes],
  )
}

async function crashesOf(runId: string): Promise<number> {
  const [row] = await worker.query<{ readonly crashes: number }>(
    "select crashes from run_claims where run_id = $1::uuid",
    [runId],
  )
  return row?.crashes ?? 0
}

describe("a run whose owner vanished", () => {
  it("is blamed until it has moved on, however long others have it in hand", async () => {
    await using victim = await startVictim()
    const me = inWorkspace(victim)
    const answers = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
    peers.script.execute = async ({ stepIndex }) => {
      await answers[stepIndex]?.promise
      return {}
    }
    const run = await me.start([{ tool: "low.read" }, { tool: "low.read" }])
    await until(async () => (await me.callsOf(run.runId))[0]?.attempts === 1)
    await vanish([run.runId], 1)
    await using heir = await startHeir()
    await until(async () => (await crashesOf(run.runId)) === 2)
    await new Promise((resolve) => setTimeout(resolve, 2_500))
    expect(await crashesOf(run.runId)).toBe(2)
    answers[0]?.resolve()
    await until(async () => (await crashesOf(run.runId)) === 0)
    answers[1]?.resolve()
    await inWorkspace(heir, me.workspaceId).reaches(run.runId, RunState.SUCCEEDED)
  })

  it("is taken up alone once it was one before: one of many is blamed at a time", async () => {
    await using victim = await startVictim()
    const me = inWorkspace(victim)
    const gates = new Set<() => void>()
    peers.script.execute = async () => {
      const gate = Promise.withResolvers<void>()
      gates.add(gate.resolve)
      await gate.promise
      return {}
    }
    const runs = await Promise.all(
      Array.from({ length: 4 }, () => me.start([{ tool: "low.read" }])),
    )
    const runIds = runs.map(({ runId }) => runId)
    for (const runId of runIds) {
      await until(async () => (await me.callsOf(runId))[0]?.attempts === 1)
    }
    await vanish(runIds, 1)
    gates.clear()
    await using heir = await startHeir()
    for (const _ of runIds) {
      await until(() => gates.size > 0)
      await new Promise((resolve) => setTimeout(resolve, 300))
      const blamed = await worker.query(
        "select from run_claims where crashes > 1 and run_id = any ($1::uuid[])",
        [runIds],
      )
      expect(blamed).toHaveLength(1)
      for (const letGo of gates) letGo()
      gates.clear()
    }
    const there = inWorkspace(heir, me.workspaceId)
    for (const runId of runIds) await there.reaches(runId, RunState.SUCCEEDED)
  })

  it("holds the others up for no longer than one attempt of its call may take", async () => {
    await using victim = await startVictim()
    const me = inWorkspace(victim)
    peers.script.execute = () => new Promise(() => {})
    const runs = await Promise.all([0, 1].map(() => me.start([{ tool: "low.read" }])))
    const runIds = runs.map(({ runId }) => runId)
    for (const runId of runIds) {
      await until(async () => (await me.callsOf(runId))[0]?.attempts === 1)
    }
    await vanish(runIds, 1)
    const executor = { leaseMs: 2_000, executeTimeoutMs: 600 }
    await using _heir = await startOrchestrator({ peers, database, executor })
    const counts = () => Promise.all(runIds.map(crashesOf))
    await until(async () => (await counts()).toSorted().join() === "1,2")
    await until(async () => (await counts()).join() === "2,2")
    await Promise.all(runIds.map((runId) => me.cancel(runId)))
  })
})

describe("a run over which owners vanish again and again", () => {
  /** One that is set aside while its first call executes, and what it was started with. */
  async function setAside(tool: string, overrides = {}) {
    const victim = await startVictim()
    const me = inWorkspace(victim)
    peers.script.execute = () => new Promise(() => {})
    const run = await me.start([{ tool }], overrides)
    await until(async () => (await me.callsOf(run.runId))[0]?.attempts === 1)
    await vanish([run.runId], 2)
    const heir = await startHeir()
    const there = inWorkspace(heir, me.workspaceId)
    const waiting = await there.reaches(run.runId, RunState.REQUIRES_ACTION)
    expect(waiting.reason).toBe("quarantined")
    Object.assign(peers.script, defaults)
    const end = () => Promise.all([victim, heir].map((one) => one[Symbol.asyncDispose]()))
    return { there, heir, run, [Symbol.asyncDispose]: async () => void (await end()) }
  }

  it("is set aside, and its history and telemetry say so", async () => {
    await using aside = await setAside("low.keyed")
    const { there, run } = aside
    const changes = (await there.history(run.runId)).flatMap(({ kind }) =>
      kind.case === "runStateChanged" ? [kind.value.reason] : [],
    )
    expect(changes.at(-1)).toBe("quarantined")
    const told = () =>
      peers.events.some(
        ({ runId, payload }) =>
          runId === run.runId &&
          payload.case === "runChanged" &&
          payload.value.reason === "quarantined",
      )
    await until(told, { timeoutMs: 10_000 })
    expect((await there.callsOf(run.runId))[0]?.attempts).toBe(1)
  })

  it("goes on once it is released, and only then", async () => {
    await using aside = await setAside("low.read")
    const { there, heir, run } = aside
    await worker.query("update run_claims set due_time = now() where run_id = $1::uuid", [
      run.runId,
    ])
    await until(async () => {
      const [claim] = await worker.query<{ readonly is_later: boolean }>(
        "select due_time > now() + interval '1 minute' as is_later from run_claims where run_id = $1::uuid and owner is null",
        [run.runId],
      )
      return claim?.is_later
    })
    const { workspaceId } = there
    const admin = actingAs(memberSubject(workspaceId, newId(), Role.ADMIN), {})
    const release = { workspaceId, requestId: newId(), runId: run.runId }
    const low = actingAs(memberSubject(workspaceId, newId(), Role.APPROVER), {})
    const refused = await heir.runs.releaseRun(release, low).catch((e: unknown) => e)
    expect(reasonOf(refused)).toBe("ROLE_TOO_LOW")
    expect((await heir.runs.releaseRun(release, admin)).run?.state).toBe(RunState.RUNNING)
    const ended = await there.reaches(run.runId, RunState.SUCCEEDED)
    expect(ended.reason).toBe("")
    expect((await there.callsOf(run.runId))[0]?.attempts).toBe(2)
    const again = { ...release, requestId: newId() }
    const error = await heir.runs.releaseRun(again, admin).catch((e: unknown) => e)
    expect(reasonOf(error)).toBe("ILLEGAL_TRANSITION")
  })

  it("ends at once when it is cancelled, and its call with it", async () => {
    await using aside = await setAside("low.keyed")
    await aside.there.cancel(aside.run.runId)
    await aside.there.reaches(aside.run.runId, RunState.CANCELLED)
  })

  it("ends by its deadline", async () => {
    const timeout = { timeout: { seconds: 3n, nanos: 0 } }
    await using aside = await setAside("low.read", timeout)
    const ended = await aside.there.reaches(aside.run.runId, RunState.EXPIRED, 10_000)
    expect(ended.reason).toBe("deadline_exceeded")
  })
})

describe("a call that kills whoever executes it", () => {
  it.each([
    ["soon after it was sent", 20, 20],
    ["long after it was sent, beside calls that take as long", 1_500, 2_000],
  ])(
    "%s, kills three replicas more at most, and keeps no other run from its end",
    async (_, afterMs, tookMs) => {
      await using victim = await startVictim()
      const me = inWorkspace(victim)
      let hanging = 0
      peers.script.execute = () => {
        hanging++
        return new Promise(() => {})
      }
      const poison = await me.start([{ tool: "low.read", arguments: { killsAfterMs: afterMs } }])
      const quick = { tool: "low.read", arguments: { tookMs: 20 } }
      const slow = { tool: "low.read", arguments: { tookMs } }
      const healthy = await Promise.all([
        ...Array.from({ length: 17 }, () => me.start([quick, quick])),
        ...Array.from({ length: 3 }, () => me.start([slow, quick])),
      ])
      await until(() => hanging === 21)
      await vanish(
        [poison, ...healthy].map(({ runId }) => runId),
        0,
      )
      let deaths = 0
      const stop = new AbortController()
      const replicas = (async () => {
        while (!stop.signal.aborted && deaths < 10) {
          if (await livesUntil(stop.signal)) return
          deaths++
        }
      })()
      const ended = await me.reaches(poison.runId, RunState.REQUIRES_ACTION, 60_000)
      expect(ended.reason).toBe("quarantined")
      for (const { runId } of healthy) await me.reaches(runId, RunState.SUCCEEDED, 30_000)
      stop.abort()
      await replicas
      expect(deaths).toBeLessThanOrEqual(3)
    },
    120_000,
  )

  /** A replica in a process of its own; false where it died. */
  async function livesUntil(signal: AbortSignal): Promise<boolean> {
    const child = fork(fileURLToPath(new URL("./mortal-replica.ts", import.meta.url)))
    const exit = once(child, "exit")
    const { appUrl, workerUrl, poolSize } = database
    child.send({ appUrl, workerUrl, poolSize })
    const onAbort = () => child.disconnect()
    signal.addEventListener("abort", onAbort, { once: true })
    await exit
    signal.removeEventListener("abort", onAbort)
    return signal.aborted
  }
})
