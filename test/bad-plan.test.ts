// Plans that cannot be run are refused whole, at once, and name the step: nothing of them is stored.
import type { JsonObject } from "@bufbuild/protobuf"
import { ConnectError } from "@connectrpc/connect"
import { afterAll, beforeAll, expect, test } from "vitest"
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { metadataOf, reasonOf } from "../mesh/errors.ts"
import { definition, FakeProvider } from "../mesh/fixtures/fake-provider.ts"
import { createGrpcServer } from "../mesh/grpc-server.ts"
import { createVerifier } from "../mesh/hop-tokens.ts"
import type { ServiceName } from "../mesh/identity.ts"
import { newId } from "../mesh/ids.ts"
import { testKeys, testRuntime, until } from "../mesh/testing.ts"
import { providersEnvironment } from "../services/local/local.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

const stack = new AsyncDisposableStack()
let mesh: TestMesh
let ours: TestWorkspace

beforeAll(async () => {
  const twin = new FakeProvider()
  twin.tools = [definition("project.list")]
  const name = "twin" as ServiceName
  const runtime = { ...testRuntime("projects"), verifier: createVerifier(name, testKeys.trusted) }
  const server = stack.use(
    createGrpcServer({ routes: [twin.route()], runtime }, { listen: "127.0.0.1:0" }),
  )
  const { port } = await server.start()
  const env = providersEnvironment({ RUNWARDEN_PROVIDERS: `${name}=127.0.0.1:${port}` })
  mesh = stack.use(await startTestMesh({ env }))
  ours = await mesh.addWorkspace()
  const ready = [{ tool: "twin/project.list", arguments: { text: "x" } }]
  await until(async () => (await start(ready)).reason === undefined)
  await until(async () => (await list()).every(({ endTime }) => endTime !== undefined))
})
afterAll(() => stack.disposeAsync())

interface Step {
  readonly tool?: string
  readonly version?: string
  readonly arguments?: JsonObject
}

const create = (name: unknown): Step => ({
  tool: "project.create",
  arguments: { name: name as string },
})
const ref = (from: unknown, path: unknown = "/name"): JsonObject => ({
  $from: from as number,
  path: path as string,
})
const nested = (depth: number): JsonObject => (depth === 0 ? {} : { a: nested(depth - 1) })

const plans: readonly (readonly [string, readonly Step[], string, RegExp])[] = [
  ["no steps", [], "INVALID_REQUEST", /plan\.steps/],
  ["an empty name of a tool", [{ tool: "" }], "INVALID_REQUEST", /plan\.steps\[0\]\.tool/],
  ["an unknown tool", [{ tool: "project.nothing" }], "UNKNOWN_TOOL", /plan\.steps\[0\]\.tool/],
  [
    "an unknown tool in the second step",
    [create("x"), { tool: "nobody/nothing" }],
    "UNKNOWN_TOOL",
    /plan\.steps\[1\]\.tool/,
  ],
  [
    "an unknown version",
    [{ ...create("x"), version: "9.9.9" }],
    "UNKNOWN_TOOL",
    /plan\.steps\[0\]/,
  ],
  ["a name like a prototype's", [{ tool: "constructor" }], "UNKNOWN_TOOL", /plan\.steps\[0\]/],
  ["an ambiguous name", [{ tool: "project.list" }], "AMBIGUOUS_TOOL", /plan\.steps\[0\]\.tool/],
  [
    "an argument of a wrong type",
    [create(7)],
    "TOOL_ARGUMENTS_INVALID",
    /plan\.steps\[0\]\.arguments.*name/,
  ],
  [
    "an argument that is missing",
    [{ tool: "project.create", arguments: {} }],
    "TOOL_ARGUMENTS_INVALID",
    /plan\.steps\[0\]\.arguments/,
  ],
  [
    "an argument that nobody knows",
    [{ tool: "project.create", arguments: { name: "x", colour: "red" } }],
    "TOOL_ARGUMENTS_INVALID",
    /colour/,
  ],
  ["an argument that is too long", [create("x".repeat(201))], "TOOL_ARGUMENTS_INVALID", /name/],
  [
    "arguments that break the second step",
    [create("x"), { tool: "project.get", arguments: { project_id: "no" } }],
    "TOOL_ARGUMENTS_INVALID",
    /plan\.steps\[1\]/,
  ],
  [
    "a reference to a later step",
    [create(ref(1)), create("x")],
    "INVALID_PLAN",
    /plan\.steps\[0\].*not earlier/,
  ],
  ["a reference to itself", [create(ref(0))], "INVALID_PLAN", /plan\.steps\[0\].*not earlier/],
  ["a reference to no step", [create("x"), create(ref(-1))], "INVALID_PLAN", /plan\.steps\[1\]/],
  [
    "a reference to half a step",
    [create("x"), create(ref(0.5))],
    "INVALID_PLAN",
    /plan\.steps\[1\]/,
  ],
  ["a reference by name", [create("x"), create(ref("0"))], "INVALID_PLAN", /plan\.steps\[1\]/],
  ["a pointer without /", [create("x"), create(ref(0, "name"))], "INVALID_PLAN", /no leading \//],
  ["a pointer with ~2", [create("x"), create(ref(0, "/~2"))], "INVALID_PLAN", /~/],
  ["a pointer that is none", [create("x"), create(ref(0, 7))], "INVALID_PLAN", /path/],
  [
    "a reference with more in it",
    [create("x"), create({ ...ref(0), default: 1 })],
    "INVALID_PLAN",
    /default/,
  ],
  [
    "a reference deep in a list",
    [create("x"), create([[{ a: ref(5) }]])],
    "INVALID_PLAN",
    /not earlier/,
  ],
  ["201 steps", Array.from({ length: 201 }, () => create("x")), "INVALID_REQUEST", /plan\.steps/],
  ["arguments of 70 KB", [create("x".repeat(70_000))], "INVALID_PLAN", /larger than/],
  [
    "arguments 40 deep",
    [{ tool: "project.create", arguments: nested(40) }],
    "INVALID_PLAN",
    /deeper/,
  ],
  [
    "a plan of 300 KB",
    Array.from({ length: 6 }, () => create("x".repeat(50_000))),
    "REQUEST_TOO_LARGE",
    /262144/,
  ],
]

test.each(plans)("%s", async (_, steps, reason, names) => {
  const before = await list()
  const refused = await start(steps)
  expect(refused.reason).toBe(reason)
  expect(refused.words).toMatch(names)
  expect(await list()).toEqual(before)
})

test("an ambiguous name is told with the names to choose from", async () => {
  const { metadata } = await start([{ tool: "project.list" }])
  expect(metadata.candidates).toContain("projects/project.list")
  expect(metadata.candidates).toContain("twin/project.list")
})

async function start(steps: readonly Step[]) {
  const { workspaceId, member } = ours
  const request = { workspaceId, requestId: newId(), plan: { name: "bad", steps: [...steps] } }
  try {
    await mesh.client(RunService, member).startRun(request)
    return { reason: undefined, metadata: {}, words: "" }
  } catch (caught) {
    const error = ConnectError.from(caught)
    const fields = error
      .findDetails(BadRequestSchema)
      .flatMap(({ fieldViolations }) => fieldViolations.map((each) => JSON.stringify(each)))
    const metadata = metadataOf(error)
    const words = [error.rawMessage, JSON.stringify(metadata), ...fields].join("\n")
    return { reason: reasonOf(error), metadata, words }
  }
}

async function list() {
  const { workspaceId, member } = ours
  const { runs } = await mesh.client(RunService, member).listRuns({ workspaceId, pageSize: 200 })
  return runs
}
