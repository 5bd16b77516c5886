// A client in each language, as a program of its own, at the edge of the mesh: it starts a run, follows
// it, confirms what it waits for, lists, and says what to do where something fails.
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { tcpProxy } from "../mesh/fixtures/tcp-proxy.ts"
import { until } from "../mesh/testing.ts"
import {
  availableLanguages,
  freePort,
  type Program,
  removePrograms,
  startProgram,
} from "./example-programs.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

const patience = { timeoutMs: 30_000 }
const stack = new AsyncDisposableStack()
let mesh: TestMesh
let workspace: TestWorkspace

beforeAll(async () => {
  mesh = stack.use(await startTestMesh())
  workspace = await mesh.addWorkspace()
})
afterAll(async () => {
  await stack.disposeAsync()
  removePrograms()
})

describe.each(availableLanguages("clients"))("a client in $name", (language) => {
  let program: Program

  beforeAll(async () => {
    program = await language.prepare("client")
  }, 300_000)

  test("starts a run, and follows it to its end", async () => {
    const runId = await startRun("projects/project.create", { name: `By ${language.name}` })
    const watched = await client(["watch", runId])
    expect(watched).toMatchObject({ code: 0 })
    const lines = watched.output.trim().split("\n")
    expect(lines).toContain("step 0 projects/project.create EXECUTING")
    expect(lines.at(-1)).toBe("run SUCCEEDED")
  }, 60_000)

  test("follows a run that waits, over a lost connection, to the yes of another client", async () => {
    await using wire = await tcpProxy(Number(new URL(mesh.url).port))
    const runId = await startRun("project.archive", {
      project_id: "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51",
    })
    const watching = startProgram(program, {
      args: ["watch", runId],
      env: { ...envOf("viewer"), RUNWARDEN_URL: `http://127.0.0.1:${wire.port}` },
    })
    await until(() => watching.output().includes(`confirm ${runId}`), patience)
    wire.cut()
    const refused = await client(["confirm", "--yes", runId], "member")
    expect(refused).toMatchObject({ code: 1 })
    expect(refused.output).toContain("ROLE_TOO_LOW: ")
    const confirmed = await client(["confirm", "--yes", runId], "approver")
    expect(confirmed).toMatchObject({ code: 0 })
    expect(confirmed.output).toContain('"project_id"')
    expect(confirmed.output.trim()).toMatch(/projects\/project\.archive APPROVED$/)
    // There is no such project: the run fails by the tool's own word, and the watcher says so.
    expect(await watching.ended).toBe(2)
    expect(watching.output().trim()).toMatch(/run FAILED tool_failed$/)
    // Each line came once, as it does to somebody who looks only now.
    expect((await client(["watch", runId], "viewer")).output).toBe(watching.output())
    const late = await client(["confirm", "--yes", runId], "approver")
    expect(late).toMatchObject({ code: 1 })
    expect(late.output).toMatch(/waits for nobody's yes/)
  }, 60_000)

  test("lists runs and tools", async () => {
    const runId = await startRun("project.list", {})
    const runs = await client(["runs"], "viewer")
    expect(runs.code).toBe(0)
    expect(runs.output).toMatch(new RegExp(`^${runId} [A-Z]+ "project.list"$`, "m"))
    const tools = await client(["tools"], "viewer")
    expect(tools.output).toMatch(/^projects\/project\.archive HIGH KEYED ".+"$/m)
    expect(tools.output).toMatch(/^projects\/project\.get LOW READ ".+"$/m)
  }, 60_000)

  test("says what failed, why, and what to do", async () => {
    const unknown = await client(["start", "project.burn"])
    expect(unknown.output).toMatch(/^UNKNOWN_TOOL: .*project\.burn/)
    expect(unknown.output).toContain("See which there are: tools")
    const invalid = await client(["start", "project.create", '{"nome":"x"}'])
    expect(invalid.output).toMatch(/^TOOL_ARGUMENTS_INVALID: /)
    const malformed = await client(["watch", "nothing"])
    expect(malformed.output).toMatch(/^INVALID_REQUEST: .*\n {2}run_id: /)
    const stranger = await client(["runs"], "member", { RUNWARDEN_API_KEY: "rwk_none" })
    expect(stranger.output).toMatch(/^UNAUTHENTICATED: .*\nSet RUNWARDEN_API_KEY/)
    const url = `http://127.0.0.1:${await freePort()}`
    const away = await client(["runs"], "member", { RUNWARDEN_URL: url })
    expect(away.output).toContain(`Nothing answers at ${url}.`)
    const unread = await client(["start", "project.list", "{"])
    for (const failed of [unknown, invalid, malformed, stranger, away, unread]) {
      expect(failed.code).toBe(1)
      expect(failed.output).not.toMatch(/Traceback|goroutine|\n +at /)
    }
    const help = await client(["--help"])
    expect(help.code).toBe(0)
    for (const word of ["start", "watch", "confirm", "runs", "tools", "RUNWARDEN_API_KEY"]) {
      expect(help.output).toContain(word)
    }
  }, 90_000)

  type As = Exclude<keyof TestWorkspace, "workspaceId">

  function envOf(as: As) {
    return { RUNWARDEN_URL: mesh.url, RUNWARDEN_API_KEY: workspace[as].apiKey }
  }

  async function client(args: readonly string[], as: As = "member", env = {}) {
    const running = startProgram(program, { args, env: { ...envOf(as), ...env } })
    const code = await running.ended
    return { code, output: running.output() }
  }

  async function startRun(tool: string, args: object): Promise<string> {
    const started = await client(["start", tool, JSON.stringify(args)])
    expect(started).toMatchObject({ code: 0, output: expect.stringMatching(/^[0-9a-f-]{36}\n$/) })
    return started.output.trim()
  }
})
