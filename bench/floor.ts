/**
 * The same workload in plain code: no engine, no recovery, no leases, no audit. A run is eight
 * commits of one statement each: its start, three effects, three steps, its end; before each step a
 * check of the arguments. An approval is a durable wait that another connection's notification ends.
 */
import { setTimeout as sleep } from "node:timers/promises"
import pg from "pg"
import { newId } from "../mesh/ids.ts"

export interface Floor extends AsyncDisposable {
  run(): Promise<void>
  /** Milliseconds from the answer to the end. */
  approve(): Promise<number>
}

interface StepArguments {
  readonly amount: number
  readonly note: string
}

const poolSize = 16
const stepCount = 3
const settleMs = 25

export async function createFloor(url: string): Promise<Floor> {
  const pool = new pg.Pool({ connectionString: url, max: poolSize, min: poolSize })
  const approvers = new pg.Pool({ connectionString: url, max: 4 })
  // A server that ends before its clients is no failure of theirs.
  for (const it of [pool, approvers]) it.on("error", () => {})
  await pool.query(`
    create table if not exists effects (run_id text not null, step integer not null,
      payload text not null, at timestamptz not null default now(), primary key (run_id, step));
    create table if not exists runs (run_id text primary key, status text not null,
      step integer not null, state jsonb not null, updated timestamptz default now())
      with (fillfactor = 50);
    create table if not exists approvals (run_id text primary key, decider text)`)
  const waiting = new Map<string, () => void>()
  const listener = new pg.Client({ connectionString: url })
  await listener.connect()
  await listener.query("listen approved")
  listener.on("notification", ({ payload = "" }) => {
    waiting.get(payload)?.()
    waiting.delete(payload)
  })

  const statement =
    (name: string, text: string, on = pool) =>
    (...values: readonly unknown[]) =>
      on.query({ name, text, values: [...values] })
  const create = statement(
    "create",
    "insert into runs (run_id, status, step, state) values ($1, 'running', 0, $2)",
  )
  const effect = statement(
    "effect",
    "insert into effects (run_id, step, payload) values ($1, $2, $3) on conflict do nothing",
  )
  const step = statement(
    "step",
    "update runs set step = $2, state = state || $3::jsonb, updated = now() where run_id = $1",
  )
  const end = statement(
    "end",
    "update runs set status = $2, state = state || $3::jsonb, updated = now() where run_id = $1",
  )
  const approve = statement(
    "approve",
    "with a as (insert into approvals values ($1, 'me')) select pg_notify('approved', $1)",
    approvers,
  )

  async function run(runId: string, wait?: () => Promise<void>): Promise<void> {
    await create(runId, '{"goal":"g"}')
    for (let index = 1; index <= stepCount; index++) {
      if (index === stepCount) await wait?.()
      const args = { amount: index * 10, note: `${runId} ${index} ${"x".repeat(60)}` }
      check(args)
      await effect(runId, index, JSON.stringify(args))
      await step(runId, index, JSON.stringify({ [`r${index}`]: "ok" }))
    }
    await end(runId, "done", '{"out":"ok"}')
  }

  return {
    run: () => run(newId()),
    async approve() {
      const runId = newId()
      const reached = Promise.withResolvers<void>()
      const ended = run(runId, async () => {
        const woken = new Promise<void>((resolve) => waiting.set(runId, resolve))
        await end(runId, "waiting", "{}")
        reached.resolve()
        await woken
      })
      await Promise.race([reached.promise, ended])
      await sleep(settleMs)
      const at = performance.now()
      await approve(runId)
      await ended
      return performance.now() - at
    },
    async [Symbol.asyncDispose]() {
      await listener.end()
      await Promise.all([pool.end(), approvers.end()])
    },
  }
}

function check({ amount, note }: StepArguments): void {
  if (amount > 1_000 || /forbidden/.test(note)) throw new Error("denied")
}
