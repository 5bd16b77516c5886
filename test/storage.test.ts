// How often large arguments and results are stored: counted in bytes, over the databases of a whole mesh.
import { randomBytes, randomInt } from "node:crypto"
import { afterAll, beforeAll, expect, test } from "vitest"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { DocumentService } from "../gen/runwarden/projects/v1/document_service_pb.ts"
import { connect } from "../mesh/database.ts"
import { newId } from "../mesh/ids.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

let mesh: TestMesh
let workspace: TestWorkspace

beforeAll(async () => {
  mesh = await startTestMesh()
  workspace = await mesh.addWorkspace()
})
afterAll(() => mesh?.[Symbol.asyncDispose]())

const runCount = 12
const databases = ["orchestrator", "tools", "moderation", "telemetry"] as const
type Sizes = Record<(typeof databases)[number], number>

test("a large result is stored once by the orchestrator and once by the ledger, and nowhere else", async () => {
  const { workspaceId, member } = workspace
  // Three bytes each, and nothing that could be compressed.
  const content = Array.from({ length: 60_000 }, () =>
    String.fromCharCode(randomInt(0x4e00, 0x9fa0)),
  ).join("")
  const { document } = await mesh
    .client(DocumentService, member)
    .createDocument({ workspaceId, requestId: newId(), title: "Large", content })
  const step = { tool: "document.get", arguments: { document_id: document?.documentId ?? "" } }
  const copies = await copiesOf(3 * content.length, () => [step])
  expect(copies.orchestrator).toBeGreaterThan(0.9)
  expect(copies.orchestrator).toBeLessThan(1.3)
  expect(copies.tools).toBeGreaterThan(0.9)
  expect(copies.tools).toBeLessThan(1.3)
  expect(copies.moderation).toBeLessThan(0.3)
  expect(copies.telemetry).toBeLessThan(0.3)
})

test("large arguments are stored once, by the orchestrator", async () => {
  const size = 48_000
  const copies = await copiesOf(size, () => {
    const content = randomBytes((size * 3) / 4).toString("base64")
    return [{ tool: "document.create", arguments: { title: "Large", content } }]
  })
  expect(copies.orchestrator).toBeGreaterThan(0.9)
  expect(copies.orchestrator).toBeLessThan(1.3)
  expect(copies.tools).toBeLessThan(0.5)
  expect(copies.moderation).toBeLessThan(0.5)
  expect(copies.telemetry).toBeLessThan(0.5)
})

/** How much the databases grow by runs of a step with one payload each, in payloads. */
async function copiesOf(
  payloadBytes: number,
  stepsOf: () => { tool: string; arguments: Record<string, string> }[],
): Promise<Sizes> {
  const { workspaceId, member } = workspace
  const runs = mesh.client(RunService, member)
  const before = await sizes()
  for (let index = 0; index < runCount; index++) {
    const plan = { name: "large", steps: stepsOf() }
    const request = { workspaceId, requestId: newId(), plan, wait: { seconds: 20n } }
    const { run } = await runs.startRun(request)
    expect(run?.state, run?.reason).toBe(RunState.SUCCEEDED)
    expect(run?.plan).toMatchObject(plan)
    expect((await runs.getRun({ workspaceId, runId: run?.runId ?? "" })).run?.plan).toMatchObject(
      plan,
    )
    const { toolCalls } = await mesh
      .client(ToolCallService, member)
      .listToolCalls({ workspaceId, runId: run?.runId ?? "" })
    expect(toolCalls).toHaveLength(1)
  }
  const after = await sizes()
  const grown = databases.map((name) => [
    name,
    (after[name] - before[name]) / (runCount * payloadBytes),
  ])
  return Object.fromEntries(grown)
}

async function sizes(): Promise<Sizes> {
  const found = await Promise.all(
    databases.map(async (name) => {
      const url = mesh.env[`${name.toUpperCase()}_OWNER_DATABASE_URL`] ?? ""
      await using owner = await connect(url)
      const [row] = await owner.query<{ readonly bytes: number }>(
        `select sum(pg_total_relation_size(oid))::bigint as bytes from pg_class
         where relkind = 'r' and relnamespace = 'public'::regnamespace`,
      )
      return [name, Number(row?.bytes ?? 0)]
    }),
  )
  return Object.fromEntries(found)
}
