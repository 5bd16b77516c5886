// The orchestrator as a process of its own, killed with SIGKILL at random moments while it carries
// out runs, and started again: every run that was acknowledged ends, and nothing happens twice.
import { type ChildProcess, spawn } from "node:child_process"
import { createServer } from "node:net"
import path from "node:path"
import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { createMeshClient } from "../mesh/client.ts"
import { createGrpcTransport } from "../mesh/grpc-client.ts"
import { actingAs, memberSubject } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { encodePrivateKey, encodeTrustedKeys } from "../mesh/keys.ts"
import { testDatabase, testKeys, testRuntime, until } from "../mesh/testing.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

const runCount = 40
const stepCount = 3
const kills = 4
const root = path.resolve(import.meta.dirname, "..")
const stack = new AsyncDisposableStack()
let mesh: TestMesh
let workspace: TestWorkspace
let environment: Record<string, string>
let listen = ""
let child: ChildProcess | undefined
let output = ""

beforeAll(async () => {
  // The mesh's own orchestrator is on another database, and has nothing to do here.
  mesh = stack.use(await startTestMesh({ wire: "grpc" }))
  workspace = await mesh.addWorkspace()
  const database = stack.use(await testDatabase("orchestrator"))
  const key = testKeys.private.get("orchestrator")
  if (key === undefined) throw new Error("no key")
  listen = `127.0.0.1:${await freePort()}`
  const peers = ["gateway", "tools", "moderation", "telemetry", "projects", "retrieval"] as const
  environment = {
    PATH: process.env.PATH ?? "",
    RUNWARDEN_LOG_LEVEL: "warn",
    RUNWARDEN_TRUSTED_KEYS: encodeTrustedKeys(testKeys.trusted),
    ORCHESTRATOR_IDENTITY_KEY: encodePrivateKey(key),
    ORCHESTRATOR_LISTEN: listen,
    ORCHESTRATOR_DATABASE_URL: database.appUrl,
    ORCHESTRATOR_WORKER_DATABASE_URL: database.workerUrl,
    ORCHESTRATOR_LEASE_MS: "1500",
    ORCHESTRATOR_POLL_MS: "200",
    // These runs are no poison: whoever kills their owner means all of them.
    ORCHESTRATOR_MAX_CRASHES: "100",
    ...Object.fromEntries(
      peers.map((peer) => [`${peer.toUpperCase()}_ADDRESS`, mesh.mesh.address(peer)]),
    ),
  }
}, 60_000)

afterAll(async () => {
  child?.kill("SIGKILL")
  await stack.disposeAsync()
})

test("acknowledged runs end after every kill, and each step happened once", {
  timeout: 120_000,
}, async () => {
  const { workspaceId, member } = workspace
  const runtime = testRuntime("gateway")
  const transport = stack.use(createGrpcTransport(listen, runtime, "orchestrator"))
  const runs = createMeshClient(RunService, transport)
  const options = () => actingAs(memberSubject(workspaceId, member.actorId, Role.MEMBER))
  const names = (n: number) =>
    Array.from({ length: stepCount }, (_, step) => `run ${n} step ${step}`)

  /** Starts a run as a client does that never gives up: with one request id, until it is told. */
  const start = (n: number) => {
    const requestId = newId()
    const steps = names(n).map((name) => ({ tool: "project.create", arguments: { name } }))
    return until(
      () =>
        runs.startRun({ workspaceId, requestId, plan: { name: "kill", steps } }, options()).then(
          ({ run }) => run?.runId,
          async () => {
            await sleep(100)
            return undefined
          },
        ),
      { timeoutMs: 80_000 },
    )
  }

  let isKilling = true
  const killer = (async () => {
    for (let n = 0; n < kills; n++) {
      launch()
      const isUp = () =>
        runs.listRuns({ workspaceId, pageSize: 1 }, options()).then(
          () => true,
          () => false,
        )
      await until(isUp, { timeoutMs: 30_000 })
      await sleep(50 + Math.random() * 700)
      await kill()
    }
    launch()
    isKilling = false
  })()
  const started = await Promise.all(
    Array.from({ length: runCount }, async (_, n) => {
      await sleep(n * 120)
      return start(n)
    }),
  )
  await killer
  expect(isKilling).toBe(false)

  for (const runId of started) {
    const ended = await until(
      async () => {
        const { run } = await runs
          .getRun({ workspaceId, runId }, options())
          .catch(() => ({ run: undefined }))
        return run?.endTime !== undefined && run
      },
      { timeoutMs: 30_000 },
    )
    expect(ended).toMatchObject({ state: RunState.SUCCEEDED, stepIndex: stepCount })
  }
  expect(new Set(started).size).toBe(runCount)
  const { projects } = await mesh
    .client(ProjectService, member)
    .listProjects({ workspaceId, pageSize: 200 })
  const expected = Array.from({ length: runCount }, (_, n) => names(n)).flat()
  expect(projects.map(({ name }) => name).sort()).toEqual(expected.sort())
  expect(output).not.toMatch(/"level":(50|60)/)
})

function launch(): void {
  const started = spawn(process.execPath, [path.join(root, "services/orchestrator/main.ts")], {
    cwd: root,
    env: environment,
    stdio: ["ignore", "pipe", "pipe"],
  })
  for (const stream of [started.stdout, started.stderr]) {
    stream.on("data", (text) => {
      output += text
    })
  }
  child = started
}

async function kill(): Promise<void> {
  const killed = child
  if (killed === undefined) return
  const exited = new Promise((resolve) => killed.once("exit", resolve))
  killed.kill("SIGKILL")
  await exited
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const address = server.address()
  await new Promise<void>((resolve) => server.close(() => resolve()))
  if (address === null || typeof address === "string") throw new Error("no port")
  return address.port
}
