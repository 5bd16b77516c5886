/** Versions of tools that change at a stranger's: what workspaces see, use, activate and roll back. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest"
import { Role } from "../../../gen/runwarden/options/v1/access_pb.ts"
import { ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import {
  DefinitionChangeKind,
  type ToolVersion,
} from "../../../gen/runwarden/tools/v1/tool_version_pb.ts"
import { actingAs, memberSubject, type Subject } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { callOf, execute, type Started, someone, startTools } from "../tools-harness.ts"

const folder = mkdtempSync(join(tmpdir(), "runwarden-review-"))
const effects = join(folder, "effects")
const described = `${effects}.description`
const name = "stranger/act"
let tools: Started

beforeAll(async () => {
  const args = [
    join(import.meta.dirname, "../../../mesh/fixtures/mcp-server.ts"),
    effects,
    join(folder, "received"),
  ]
  const connection = { kind: "stdio", command: process.execPath, args, env: {} } as const
  tools = await startTools(undefined, 10_000, [
    { name: "stranger", connection, settings: new Map(), maxSessions: 40 },
  ])
  await vi.waitFor(() => offered("Acts."), 30_000)
}, 40_000)

beforeEach(async () => {
  if (existsSync(described)) rmSync(described)
  await vi.waitFor(() => offered("Acts."), 5_000)
})

afterAll(async () => {
  await tools[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true, force: true })
})

describe("a definition that changes", () => {
  it("is out of force until an admin of the workspace has activated it, there alone", async () => {
    const [admin, other] = [someAdmin(), someAdmin()]
    const { version, digest } = await change("Acts, and more.")
    await expect(callOf(tools, name, { do: "" }, admin)).rejects.toThrow(/no active tool/)
    await expect(resolve(admin, version)).rejects.toThrow(/no active tool/)

    const { activation } = await activate(admin, version, digest)
    expect(activation).toMatchObject({ fullName: name, version, previousVersion: "", etag: "1" })
    const answer = await execute(tools, await callOf(tools, name, { do: "" }, admin))
    expect(answer.execution?.state).toBe(ExecutionState.SUCCEEDED)
    expect(await used(admin)).toEqual([version])
    await expect(callOf(tools, name, { do: "" }, other)).rejects.toThrow(/no active tool/)
    expect(await used(other)).toEqual([])
  })

  it("is shown beside what is in use, with all that differs", async () => {
    const admin = someAdmin()
    const { version } = await change("Acts for somebody else.")
    const { versions } = await list(admin)
    const [newest, first] = [versions.find(isVersion(version)), versions.at(-1)]
    expect(newest).toMatchObject({
      offered: true,
      reviewed: false,
      comparedWith: first?.tool?.definition?.version,
      changeKind: DefinitionChangeKind.BREAKING,
      changes: [{ kind: DefinitionChangeKind.BREAKING, path: "/description" }],
    })
    expect(first).toMatchObject({ offered: false, reviewed: true, comparedWith: "", changes: [] })
  })

  it("is rolled back by one call, to where the workspace was before, and back again", async () => {
    const admin = someAdmin()
    const before = (await used(admin))[0] ?? ""
    const { version, digest } = await change("Acts once more.")
    await activate(admin, version, digest)
    const { activation } = await rollBack(admin)
    expect(activation).toMatchObject({ version: "", previousVersion: version, etag: "2" })
    await expect(callOf(tools, name, {}, admin)).rejects.toThrow(/no active tool/)
    rmSync(described)
    await vi.waitFor(async () => expect(await used(admin)).toEqual([before]), 5_000)
    await expect(rollBack(admin)).rejects.toThrow(/withdrawn/)
  })

  it("is activated only as it was looked at, and only while it is offered", async () => {
    const admin = someAdmin()
    const first = (await list(admin)).versions.at(-1)?.tool
    const { version, digest } = await change("Acts anew.")
    await expect(activate(admin, version, "0".repeat(64))).rejects.toThrow(
      /changed since you read it/,
    )
    await expect(activate(admin, "mcp-none", digest)).rejects.toThrow(/no tool version/)
    const withdrawn = activate(
      admin,
      first?.definition?.version ?? "",
      first?.definitionDigest ?? "",
    )
    await expect(withdrawn).rejects.toThrow(/withdrawn/)
    await expect(rollBack(admin)).rejects.toThrow(/no activation/)
  })

  it("is decided once, whoever decides at the same moment, and answered alike when asked again", async () => {
    const admin = someAdmin()
    const { version, digest } = await change("Acts twice.")
    const requestId = newId()
    const one = await activate(admin, version, digest, requestId)
    expect(await activate(admin, version, digest, requestId)).toEqual(one)
    const settled = await Promise.allSettled([1, 2, 3, 4].map(() => rollBack(admin, "1")))
    expect(settled.filter(({ status }) => status === "fulfilled")).toHaveLength(1)
  })

  it("is an admin's to activate", async () => {
    const member = someone()
    const { version, digest } = await change("Acts for members.")
    await expect(activate(member, version, digest)).rejects.toThrow(/role/)
    await expect(rollBack(member)).rejects.toThrow(/role/)
  })
})

/** Changes the definition at the server, and waits until the registry has seen it. */
async function change(description: string): Promise<{ version: string; digest: string }> {
  writeFileSync(described, description)
  const tool = await vi.waitFor(() => offered(description), 5_000)
  return { version: tool?.definition?.version ?? "", digest: tool?.definitionDigest ?? "" }
}

async function offered(description: string): Promise<ToolVersion["tool"]> {
  const { versions } = await list(someone())
  const found = versions.find((one) => one.offered)
  expect(found?.tool?.definition?.description).toBe(description)
  return found?.tool
}

async function used({ workspaceId, ...rest }: Subject): Promise<readonly string[]> {
  const request = { workspaceId, provider: "stranger" }
  const { tools: found } = await tools.registry.listTools(
    request,
    actingAs({ workspaceId, ...rest }),
  )
  return found.map(({ definition }) => definition?.version ?? "")
}

function list(subject: Subject) {
  const { workspaceId } = subject
  return tools.registry.listToolVersions({ workspaceId, name, pageSize: 100 }, actingAs(subject))
}

function resolve(subject: Subject, version: string) {
  const { workspaceId } = subject
  return tools.execution.resolveTool({ workspaceId, name, version }, actingAs(subject))
}

function activate(
  subject: Subject,
  version: string,
  definitionDigest: string,
  requestId = newId(),
) {
  const request = { workspaceId: subject.workspaceId, requestId, name, version, definitionDigest }
  return tools.registry.activateToolVersion(request, actingAs(subject))
}

function rollBack(subject: Subject, etag = "") {
  const request = { workspaceId: subject.workspaceId, requestId: newId(), name, etag }
  return tools.registry.rollBackTool(request, actingAs(subject))
}

function someAdmin(): Subject {
  return memberSubject(newId(), newId(), Role.ADMIN)
}

function isVersion(version: string) {
  return ({ tool }: ToolVersion) => tool?.definition?.version === version
}
