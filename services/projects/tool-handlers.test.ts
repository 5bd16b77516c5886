import { type JsonObject, toJson } from "@bufbuild/protobuf"
import { Ajv2020 } from "ajv/dist/2020.js"
import addFormats from "ajv-formats"
import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import {
  Effect,
  RiskClass,
  type ToolDefinition,
  ToolDefinitionSchema,
} from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { Outcome } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { digestOf } from "../../mesh/canonical.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { until } from "../../mesh/testing.ts"
import { someone, startProjects } from "./projects-harness.ts"

let mesh: Awaited<ReturnType<typeof startProjects>>
let definitions: ReadonlyMap<string, ToolDefinition>
const ajv = new Ajv2020({ strict: true, allErrors: true })
addFormats.default(ajv)

beforeAll(async () => {
  mesh = await startProjects()
  const { tools } = await mesh.tools.listTools({}, actingAs(serviceSubject("tools", newId())))
  definitions = new Map(tools.map((tool) => [tool.name, tool]))
})
afterAll(() => mesh[Symbol.asyncDispose]())

test("every tool is offered with the risk and the effect of the contract", () => {
  const { LOW, MEDIUM, HIGH } = RiskClass
  const { READ, KEYED } = Effect
  const offered = [...definitions.values()].map((t) => [t.name, t.riskClass, t.effect, t.version])
  expect(offered.sort()).toEqual([
    ["document.create", LOW, KEYED, "1.0.0"],
    ["document.delete", HIGH, KEYED, "1.0.0"],
    ["document.get", LOW, READ, "1.0.0"],
    ["document.list", LOW, READ, "1.0.0"],
    ["document.update", MEDIUM, KEYED, "1.0.0"],
    ["project.archive", HIGH, KEYED, "1.0.0"],
    ["project.create", LOW, KEYED, "1.0.0"],
    ["project.get", LOW, READ, "1.0.0"],
    ["project.list", LOW, READ, "1.0.0"],
    ["project.transition", MEDIUM, KEYED, "1.0.0"],
    ["project.update", MEDIUM, KEYED, "1.0.0"],
  ])
})

test("schemas are closed JSON Schemas of 2020-12 whose arguments are all described", () => {
  for (const { name, inputSchema, outputSchema } of definitions.values()) {
    for (const schema of [inputSchema, outputSchema]) {
      expect(schema, name).toMatchObject({
        $schema: "https://json-schema.org/draft/2020-12/schema",
        type: "object",
        additionalProperties: false,
      })
      ajv.compile(schema ?? {})
    }
    const properties = Object.entries((inputSchema?.properties ?? {}) as JsonObject)
    for (const [property, schema] of properties) {
      expect((schema as JsonObject).description, `${name} ${property}`).toBeTypeOf("string")
    }
  }
})

// A definition never changes under one version: where this fails, the version has to rise.
test("the definitions of version 1.0.0 are what they were", () => {
  const digests = [...definitions.values()].map((definition) => [
    definition.name,
    digestOf(toJson(ToolDefinitionSchema, definition)).slice(0, 12),
  ])
  expect(Object.fromEntries(digests)).toMatchInlineSnapshot(`
    {
      "document.create": "abaff34fbfe7",
      "document.delete": "7b35c777c217",
      "document.get": "cd7bd3a414ad",
      "document.list": "db69410c72b4",
      "document.update": "73dda0d8c8b9",
      "project.archive": "2347f7e87284",
      "project.create": "ea949a4d2160",
      "project.get": "6b9cb370b80f",
      "project.list": "bd3c381a4f16",
      "project.transition": "53e9664773ff",
      "project.update": "dd0ec93a423f",
    }
  `)
})

test("a project is created, moved and archived by tools, and a document filed", async () => {
  const member = someone()
  const created = await result(member, "project.create", { name: "Apollo" })
  const projectId = created.project_id as string
  await result(member, "project.transition", { project_id: projectId, state: "active" })
  await result(member, "project.update", { project_id: projectId, description: "moon" })
  const filed = await result(member, "document.create", {
    project_id: projectId,
    title: "Report",
    content: "We went 🌍 and back.",
    metadata: { citations: [{ document_id: newId(), version: 1, start: 0, end: 5 }] },
  })
  const documentId = filed.document_id as string
  await result(member, "document.update", { document_id: documentId, title: "The report" })
  const read = await result(member, "document.get", { document_id: documentId, offset: 8 })
  expect(read).toMatchObject({ content: "🌍 and back.", truncated: false, version: 2 })
  const documents = await result(member, "document.list", { project_id: projectId })
  expect(documents).toMatchObject({ documents: [{ title: "The report" }], next_page_token: "" })
  await result(member, "document.delete", { document_id: documentId })
  await result(member, "project.archive", { project_id: projectId })
  const projects = await result(member, "project.list", { state: "archived" })
  expect(projects).toMatchObject({ projects: [{ project_id: projectId, description: "moon" }] })
  expect(await result(member, "project.get", { project_id: projectId })).toMatchObject({
    creator: member.actorId,
  })
})

test("a change by a tool is told to telemetry with its run, and to retrieval", async () => {
  const member = someone()
  const runId = newId()
  const filed = await result(member, "document.create", { title: "T", content: "x" }, { runId })
  await until(() => mesh.received.events.some((event) => event.runId === runId))
  await until(() => mesh.received.indexed.some((r) => r.documentId === filed.document_id))
})

test("failures of the domain are the tool's own answers", async () => {
  const member = someone()
  const { project_id, etag } = await result(member, "project.create", { name: "Apollo" })
  const missing = newId()
  const failures = [
    ["project.get", { project_id: missing }, "project_not_found"],
    ["document.delete", { document_id: missing }, "document_not_found"],
    ["document.create", { project_id: missing, title: "T", content: "" }, "project_not_found"],
    ["project.transition", { project_id, state: "completed" }, "illegal_transition"],
    ["project.update", { project_id, etag: `${etag}0`, name: "x" }, "etag_mismatch"],
    ["project.update", { project_id }, "invalid_request"],
    ["project.list", { page_token: "nonsense" }, "invalid_page_token"],
  ] as const
  for (const [tool, args, reason] of failures) {
    const { outcome } = await execute(member, tool, args as JsonObject)
    expect(outcome.case, tool).toBe("error")
    expect(outcome.case === "error" && outcome.value.reason, tool).toBe(reason)
  }
})

test("a key answers once: repeats and concurrent calls get the first answer", async () => {
  const member = someone()
  const idempotencyKey = newId()
  const args = { name: "Apollo" }
  const calls = Array.from({ length: 5 }, () =>
    execute(member, "project.create", args, { idempotencyKey }),
  )
  const answers = await Promise.all(calls)
  answers.push(await execute(member, "project.create", args, { idempotencyKey }))
  for (const answer of answers) expect(answer).toEqual(answers[0])
  const list = await result(member, "project.list", {})
  expect(list.projects).toHaveLength(1)
})

test("a repeated step and a repeated deletion are answered, not refused", async () => {
  const member = someone()
  const { project_id } = await result(member, "project.create", { name: "Apollo" })
  const { document_id } = await result(member, "document.create", { title: "T", content: "" })
  const steps = [
    ["project.transition", { project_id, state: "active" }],
    ["document.delete", { document_id }],
  ] as const
  for (const [tool, args] of steps) {
    const key = { idempotencyKey: newId() }
    const first = await execute(member, tool, args as JsonObject, key)
    expect(first.outcome.case).toBe("result")
    expect(await execute(member, tool, args as JsonObject, key)).toEqual(first)
  }
})

test("an error that was answered stays the answer of its key", async () => {
  const member = someone()
  const { project_id } = await result(member, "project.create", { name: "Apollo" })
  const key = { idempotencyKey: newId() }
  const args = { project_id, state: "completed" } as JsonObject
  const first = await execute(member, "project.transition", args, key)
  await result(member, "project.transition", { project_id, state: "active" } as JsonObject)
  expect(await execute(member, "project.transition", args, key)).toEqual(first)
})

test("a key with other arguments is refused, and is another workspace's own", async () => {
  const member = someone()
  const key = { idempotencyKey: newId() }
  await execute(member, "project.create", { name: "Apollo" }, key)
  const other = execute(member, "project.create", { name: "Artemis" }, key)
  expect(await reasonFor(other)).toBe("IDEMPOTENCY_CONFLICT")
  const elsewhere = await execute(someone(), "project.create", { name: "Artemis" }, key)
  expect(elsewhere.outcome.case).toBe("result")
})

test("GetOutcome gives the stored answer, and does not guess without one", async () => {
  const member = someone()
  const idempotencyKey = newId()
  const ask = (who: typeof member, tool = "project.create") =>
    mesh.tools.getOutcome({ workspaceId: who.workspaceId, tool, idempotencyKey }, actingAs(who))
  expect((await ask(member)).outcome).toBe(Outcome.UNKNOWN)
  const response = await execute(member, "project.create", { name: "A" }, { idempotencyKey })
  expect(await ask(member)).toMatchObject({ outcome: Outcome.COMPLETED, response })
  expect((await ask(someone())).outcome).toBe(Outcome.UNKNOWN)
  expect((await ask(member, "project.get")).outcome).toBe(Outcome.NOT_EXECUTED)
  expect(await reasonFor(ask(member, "project.explode"))).toBe("UNKNOWN_TOOL")
})

test("unknown tools and versions, bad arguments and a viewer's change do not run", async () => {
  const member = someone()
  const viewer = someone(Role.VIEWER, member.workspaceId)
  const refusals = [
    [execute(member, "project.explode", {}), "UNKNOWN_TOOL"],
    [execute(member, "project.get", {}, { version: "9" }), "UNKNOWN_TOOL"],
    [execute(member, "project.create", { name: 7 }), "TOOL_ARGUMENTS_INVALID"],
    [execute(member, "project.create", { name: "x", owner: "me" }), "TOOL_ARGUMENTS_INVALID"],
    [execute(viewer, "project.create", { name: "x" }), "ROLE_TOO_LOW"],
  ] as const
  const reasons = await Promise.all(refusals.map(([attempt]) => reasonFor(attempt)))
  expect(reasons).toEqual(refusals.map(([, reason]) => reason))
  expect(await result(viewer, "project.list", {})).toMatchObject({ projects: [] })
})

type Someone = ReturnType<typeof someone>

interface CallOptions {
  readonly idempotencyKey?: string
  readonly version?: string
  readonly runId?: string
}

function execute(who: Someone, tool: string, args: JsonObject, options: CallOptions = {}) {
  return mesh.tools.executeTool(
    {
      workspaceId: who.workspaceId,
      tool,
      version: options.version ?? "1.0.0",
      idempotencyKey: options.idempotencyKey ?? newId(),
      arguments: args,
      runId: options.runId ?? newId(),
    },
    actingAs(who),
  )
}

/** The result of a call that is to succeed, valid against the tool's own output schema. */
async function result(who: Someone, tool: string, args: JsonObject, options: CallOptions = {}) {
  const { inputSchema = {}, outputSchema = {} } = definitions.get(tool) ?? {}
  expect(ajv.validate(inputSchema, args), ajv.errorsText()).toBe(true)
  const { outcome } = await execute(who, tool, args, options)
  if (outcome.case !== "result")
    throw new Error(`${tool} answered ${JSON.stringify(outcome.value)}`)
  expect(ajv.validate(outputSchema, outcome.value), ajv.errorsText()).toBe(true)
  return outcome.value
}

function reasonFor(attempt: Promise<unknown>) {
  return attempt.then(() => "no error", reasonOf)
}
