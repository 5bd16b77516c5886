/**
 * The stored ledger against the pure one: random histories of owners that overtake each other, of
 * deliveries that come twice, of senders that vanish or wake up late, on the real tables. After every
 * step both must say the same. Then all of it at once, by two replicas.
 */
import { join } from "node:path"
import fc from "fast-check"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { Outcome as Told } from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { type Database, openDatabase } from "../../../mesh/database.ts"
import { RunwardenError, reasonOf } from "../../../mesh/errors.ts"
import { result } from "../../../mesh/fixtures/fake-provider.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { testDatabase, testRuntime } from "../../../mesh/testing.ts"
import { callOf, execute, startTools, type TestCall } from "../tools-harness.ts"
import { admitLocked, type Held, sealLocked } from "./admission.ts"
import { type Answer, afterAnswer } from "./answer.ts"
import { type ClaimItem, claimExecutions, settleExecutions } from "./execution-group-store.ts"
import { lockExecution, outcomeValues } from "./execution-store.ts"
import type { Effect } from "./ledger.ts"
import { LedgerModel } from "./ledger-model.ts"

const leaseMs = 600_000
const stack = new AsyncDisposableStack()
let database: Database

beforeAll(async () => {
  const config = stack.use(await testDatabase("tools"))
  const migrations = join(import.meta.dirname, "../migrations")
  database = stack.use(openDatabase(config, { runtime: testRuntime("tools"), migrations }))
})

afterAll(() => stack.disposeAsync())

type Step =
  /** Owners ask for a key, in one statement where they are several. */
  | { readonly kind: "execute"; readonly by: readonly Asking[] }
  | ({ readonly kind: "seal" } & Asking)
  /** A sender that is still somewhere gets its answer, however late. */
  | { readonly kind: "finish"; readonly sender: number; readonly answer: Answer["kind"] }
  | { readonly kind: "crash"; readonly sender: number }
  /** Time passes over the lease of a key. */
  | { readonly kind: "expire"; readonly key: number }

interface Asking {
  readonly key: number
  readonly epoch: number
  readonly digest: "a" | "b"
}

const keys: readonly { readonly run: number; readonly effect: Effect }[] = [
  { run: 0, effect: "unsafe" },
  { run: 0, effect: "keyed" },
  { run: 1, effect: "unsafe" },
  { run: 1, effect: "read" },
]
const asking: fc.Arbitrary<Asking> = fc.record({
  key: fc.nat(keys.length - 1),
  epoch: fc.constantFrom(1, 1, 1, 2, 3),
  digest: fc.constantFrom("a" as const, "a" as const, "a" as const, "a" as const, "b" as const),
})
const sender = fc.nat(5)
const answers = ["result", "tool_error", "unusable", "refused", "unsent", "lost"] as const
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant("execute" as const),
      by: fc.array(asking, { minLength: 1, maxLength: 3 }),
    }),
  },
  { weight: 1, arbitrary: asking.map((one) => ({ kind: "seal" as const, ...one })) },
  {
    weight: 4,
    arbitrary: fc.record({
      kind: fc.constant("finish" as const),
      sender,
      answer: fc.constantFrom(...answers),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("crash" as const), sender }) },
  {
    weight: 3,
    arbitrary: fc.record({ kind: fc.constant("expire" as const), key: fc.nat(keys.length - 1) }),
  },
)

describe("any history", () => {
  it("is the same on the tables as in the model, and keeps the invariants", async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (script) => {
        const world = new World()
        for (const one of script) await world.take(one)
      }),
      { seed: 20_262, numRuns: 60 },
    )
  }, 120_000)
})

/** A sender that has not ended. */
interface Sender {
  readonly key: number
  readonly item: ClaimItem
  readonly held: Held
}

/** The tables and the model side by side. */
class World {
  readonly #workspaceId = newId()
  readonly #runs = [newId(), newId()]
  readonly #model = new LedgerModel()
  readonly #sent = new Map<number, number>()
  #senders: Sender[] = []

  async take(one: Step): Promise<void> {
    switch (one.kind) {
      case "execute":
        await this.#execute(one.by)
        break
      case "seal":
        await this.#seal(one)
        break
      case "finish":
        await this.#finish(one.sender, one.answer)
        break
      case "crash":
        this.#senders = this.#senders.filter((_, index) => index !== one.sender)
        break
      case "expire":
        await this.#expire(one.key)
    }
    for (const key of keys.keys()) await this.#compare(key)
  }

  #item({ key, epoch, digest }: Asking): ClaimItem {
    const { run, effect } = keys[key] ?? { run: 0, effect: "read" as const }
    return {
      workspaceId: this.#workspaceId,
      tool: "p/t",
      idempotencyKey: `key ${key}`,
      runId: this.#runs[run] ?? "",
      stepIndex: key,
      requestDigest: digest,
      definitionDigest: "d",
      effect,
      epoch: BigInt(epoch),
      claimId: newId(),
    }
  }

  async #execute(by: readonly Asking[]): Promise<void> {
    const items = by.map((one) => this.#item(one))
    const claims = await claimExecutions(database, items, leaseMs)
    const before = items.map((item) => this.#model.floor(item))
    const taken: { readonly key: number; readonly item: ClaimItem }[] = []
    for (const [index, claim] of claims.entries()) {
      const [item, one, floor] = [items[index], by[index], before[index]]
      if (item === undefined || one === undefined || floor === undefined) throw new Error("no item")
      // By what was there when the statement began: those beside it may come before or after.
      expect(claim.kind === "lease_lost").toBe(item.epoch < floor)
      if (claim.kind === "lease_lost") continue
      if (claim.kind === "taken") taken.push({ key: one.key, item })
      if (claim.kind === "taken") continue
      expect(this.#model.claim(item)).toBe("send")
      this.#begin(one.key, item, { ...claim, attempt: 1, maybeApplied: false })
    }
    for (const { item } of taken) this.#model.see(item)
    for (const { key, item } of taken) await this.#admit(key, item)
  }

  async #admit(key: number, item: ClaimItem): Promise<void> {
    const expected = this.#model.admit(item)
    const leasedAt = performance.now()
    const admitted = await database
      .tenant(item.workspaceId, (tx) => admitLocked(tx, item, { leaseMs, leasedAt }))
      .catch((error: unknown) => reasonOf(error))
    if (typeof admitted === "string" || admitted === undefined) {
      const reasons = {
        conflict: "IDEMPOTENCY_CONFLICT",
        in_progress: "IDEMPOTENCY_IN_PROGRESS",
        lease_lost: "LEASE_LOST",
      } as Readonly<Record<string, string>>
      expect(admitted).toBe(reasons[expected])
    } else if (admitted.next === "send") {
      expect(expected).toBe("repeat")
      this.#begin(key, item, admitted.held)
    } else {
      expect(expected === "abandon" ? "probe" : expected).toBe(admitted.next)
    }
  }

  /** Counts a sending when it is allowed: whoever sleeps before it sends has sent as far as others know. */
  #begin(key: number, item: ClaimItem, held: Held): void {
    this.#senders.push({ key, item, held })
    this.#sent.set(key, (this.#sent.get(key) ?? 0) + 1)
    if (item.effect === "unsafe") expect(this.#sent.get(key)).toBe(1)
  }

  async #finish(index: number, kind: Answer["kind"]): Promise<void> {
    const [one] = this.#senders.splice(index, 1)
    if (one === undefined) return
    const { key, item, held } = one
    const next = afterAnswer(item.effect, answerOf(kind), { ...held, isCancelled: false })
    if (kind === "unsent") this.#sent.set(key, (this.#sent.get(key) ?? 0) - 1)
    const isWord = kind === "result" || kind === "tool_error"
    const outcome =
      next.kind === "record"
        ? next.outcome
        : next.kind === "probe"
          ? ({ kind: "outcome_unknown" } as const)
          : undefined
    const [state, resultText, error, usage] =
      outcome === undefined ? (["in_flight", null, null, null] as const) : outcomeValues(outcome)
    const attempt = isWord ? null : held.attempt
    const maybeApplied = next.kind === "release" && next.maybeApplied
    const [settled] = await settleExecutions(database, [
      { ...item, state, result: resultText, error, usage, attempt, maybeApplied },
    ])
    expect(settled !== undefined).toBe(this.#model.settle(item, outcome, attempt, maybeApplied))
  }

  async #seal(one: Asking): Promise<void> {
    const item = this.#item(one)
    const expected = this.#model.seal(item)
    const sealed = await database
      .tenant(item.workspaceId, (tx) => sealLocked(tx, item))
      .catch((error: unknown) => reasonOf(error))
    if (expected === "lease_lost") expect(sealed).toBe("LEASE_LOST")
    else expect(sealed).toMatchObject({ isAsked: expected === "abandon" || expected === "probe" })
  }

  async #expire(key: number): Promise<void> {
    const { workspaceId } = this.#item({ key, epoch: 1, digest: "a" })
    await database.tenant(workspaceId, (tx) =>
      tx.query(
        `update executions set lease_until = now() - interval '1 s'
         where idempotency_key = $1::text and lease_until is not null`,
        [`key ${key}`],
      ),
    )
    this.#model.expire(`key ${key}`)
  }

  async #compare(key: number): Promise<void> {
    const { workspaceId, tool, idempotencyKey } = this.#item({ key, epoch: 1, digest: "a" })
    const stored = await database.tenant(workspaceId, (tx) =>
      lockExecution(tx, { workspaceId, tool, idempotencyKey }),
    )
    const model = this.#model.row(idempotencyKey)
    if (model === undefined) return expect(stored).toBeUndefined()
    const { requestDigest, effect, state, hold, maybeApplied, attempts, outcome } = model
    expect(stored).toMatchObject({
      ...{ requestDigest, effect, state, attempts },
      ...(state === "in_flight" ? { hold, maybeApplied } : {}),
      result: outcome?.kind === "succeeded" ? outcome.result : null,
      error: outcome?.kind === "failed" ? outcome.error : null,
    })
  }
}

function readable(value: { readonly n: number }): Answer {
  return { kind: "result", result: { ...value }, text: JSON.stringify(value) }
}

function answerOf(kind: Answer["kind"]): Answer {
  const failed = { reason: "r", message: "m" }
  switch (kind) {
    case "result":
      return readable({ n: Math.round(performance.now() * 1e6) })
    case "tool_error":
      return { kind, error: { ...failed, metadata: {} }, isRetryable: false }
    case "unusable":
      return { kind, reason: "result_invalid", message: "m" }
    case "unsent":
    case "lost":
      return { kind, ...failed }
    default:
      return { kind, message: "m" }
  }
}

describe("everything at once", () => {
  it("sends no unsafe call twice, and has one outcome for a key, on two replicas", async () => {
    await using tools = await startTools()
    const replicas = [tools, { execution: await tools.replica() }]
    const draw = randomNumbers(20_263)
    const chance = (share: number) => draw() < share
    tools.provider.outcome = { outcome: Told.UNKNOWN }
    tools.provider.before = () => {
      if (chance(0.2)) throw new RunwardenError("SHUTTING_DOWN", { service: "projects" })
    }
    tools.provider.answer = async () => {
      await new Promise((resolve) => setTimeout(resolve, chance(0.3) ? 30 : 0))
      if (chance(0.3)) throw new Error("lost")
      return result({ ok: true, padding: String(draw()) })
    }
    const names = ["fire", "create", "look"]
    const calls: TestCall[] = []
    for (let n = 0; n < 30; n++) calls.push(await callOf(tools, names[n % 3] ?? "look"))
    const told = new Map<string, Set<string>>()
    const owners = new Map<string, bigint>()
    const ask = async (call: TestCall) => {
      const { subject, request } = call
      const owner = (owners.get(request.runId) ?? 1n) + (chance(0.1) ? 1n : 0n)
      owners.set(request.runId, owner)
      // Now and then by one who was overtaken.
      const epoch = owner > 1n && chance(0.2) ? owner - 1n : owner
      const replica = replicas[chance(0.5) ? 0 : 1] ?? tools
      if (chance(0.05)) await tools.expire(call)
      const { arguments: _, ...sealing } = { ...request, epoch }
      const { execution } = chance(0.05)
        ? await replica.execution.sealExecution(sealing, actingAs(subject))
        : await execute(replica, { subject, request: { ...request, epoch } })
      const isEnded =
        execution?.state === ExecutionState.SUCCEEDED || execution?.state === ExecutionState.FAILED
      if (!isEnded) return
      const seen = told.get(request.idempotencyKey) ?? new Set()
      told.set(request.idempotencyKey, seen.add(JSON.stringify(execution.outcome)))
    }
    const reasons = new Set(["IDEMPOTENCY_IN_PROGRESS", "LEASE_LOST", "DEPENDENCY_UNAVAILABLE"])
    await Promise.all(
      Array.from({ length: 16 }, async () => {
        for (let n = 0; n < 25; n++) {
          const call = calls[Math.floor(draw() * calls.length)]
          if (call === undefined) continue
          const failure: unknown = await ask(call).catch((error: unknown) => reasonOf(error))
          if (failure !== undefined) expect(reasons).toContain(failure)
        }
      }),
    )
    for (const { request } of calls) {
      const effects = tools.provider.effects.get(request.idempotencyKey) ?? 0
      if (!request.tool.endsWith("look")) expect(effects).toBeLessThanOrEqual(1)
      expect(told.get(request.idempotencyKey)?.size ?? 1).toBe(1)
    }
    expect(told.size).toBeGreaterThan(15)
  }, 120_000)
})

/** Numbers from 0 to 1 that are the same in each run of the test. */
function randomNumbers(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}
