/** The one statement that admits a call: an approval is used up in it, once, in time and as given. */
import { fileURLToPath } from "node:url"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type Database, openDatabase } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { testRuntime, until } from "../../../mesh/testing.ts"
import {
  createPeers,
  inWorkspace,
  type Orchestrator,
  startOrchestrator,
} from "../orchestrator-harness.ts"
import { readSnapshot } from "../run/snapshot-store.ts"
import { Change } from "./change.ts"
import { type ChangeStore, createChangeStore, type Stored } from "./change-store.ts"

let orchestrator: Orchestrator
let database: Database
/** As two replicas have them. */
let stores: readonly ChangeStore[]
const peers = createPeers()
const asked = new Set<string>()

beforeAll(async () => {
  // Nobody can be asked about members, so that the executor admits nothing by itself.
  peers.script.member = (actorId) => {
    asked.add(actorId)
    throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "gateway" })
  }
  orchestrator = await startOrchestrator({ peers, executor: { pollMs: 20_000, leaseMs: 120_000 } })
  database = openDatabase(orchestrator.database, {
    runtime: testRuntime("orchestrator"),
    migrations: fileURLToPath(new URL("../migrations", import.meta.url)),
  })
  stores = [createChangeStore(database, 10), createChangeStore(database, 10)]
})
afterAll(async () => {
  await database[Symbol.asyncDispose]()
  await orchestrator[Symbol.asyncDispose]()
})

describe("an approval", () => {
  it("that 100 racers try to use is used once", async () => {
    const scope = await approvedRun(orchestrator)
    const change = await admission(scope)
    const racers = Array.from({ length: 100 }, (_, index) => admit(change, index % 2))
    const kinds = (await Promise.all(racers)).map(({ kind }) => kind)
    expect(kinds.filter((kind) => kind === "stored")).toHaveLength(1)
    expect(kinds.filter((kind) => kind === "stale")).toHaveLength(99)
    await expect(admission(scope)).rejects.toThrow("from executing")
  })

  it("admits nothing by another digest", async () => {
    const scope = await approvedRun(orchestrator)
    expect(await admit(await admission(scope, "0".repeat(64)))).toEqual({ kind: "stale" })
    expect(await admit(await admission(scope))).toMatchObject({ kind: "stored" })
  })

  it("admits nothing once it has expired, whatever this process believes", async () => {
    await using impatient = await startOrchestrator({
      peers,
      database: orchestrator.database,
      executor: { pollMs: 20_000, leaseMs: 120_000 },
      approval: { expiryMs: 900 },
    })
    const scope = await approvedRun(impatient)
    const change = await admission(scope)
    await new Promise((resolve) => setTimeout(resolve, 900))
    expect(await admit(change)).toEqual({ kind: "stale" })
  })
})

interface Scope {
  readonly workspaceId: string
  readonly runId: string
}

async function approvedRun(from: Orchestrator): Promise<Scope> {
  const me = inWorkspace(from)
  const { runId } = await me.start([{ tool: "high.unsafe", arguments: { a: 1 } }])
  await me.decide(await me.pendingApproval(runId))
  // The executor has looked, and has given the run back for longer than this test takes.
  await until(() => asked.has(me.requesterId))
  await new Promise((resolve) => setTimeout(resolve, 100))
  return { workspaceId: me.workspaceId, runId }
}

/** The change that admits the approved call, as the executor builds it. */
async function admission({ workspaceId, runId }: Scope, digest?: string): Promise<Change> {
  const snapshot = await database.tenant(workspaceId, (tx) =>
    readSnapshot(tx, workspaceId, { kind: "run", id: runId }),
  )
  if (snapshot?.approval === undefined) throw new Error("no approval")
  const change = new Change(snapshot)
  if (snapshot.calls[0]?.state !== "ready") throw new Error("from executing")
  change.moveRun({ kind: "resume" })
  change.consume(snapshot.approval, digest ?? snapshot.approval.digest)
  change.moveCall(0, "execute", { attempts: 1 })
  return change
}

async function admit(change: Change, replica = 0): Promise<Stored> {
  const stored = await stores[replica]?.store(change)
  if (stored === undefined) throw new Error("no such replica")
  return stored
}
