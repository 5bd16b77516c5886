// The runwarden command as a child process against a whole mesh.
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { afterAll, beforeAll, expect, test } from "vitest"
import { startTestMesh, type TestMember, type TestMesh, type TestWorkspace } from "./mesh.ts"

const root = path.resolve(import.meta.dirname, "..")
let mesh: TestMesh
let workspace: TestWorkspace
let folder: string

beforeAll(async () => {
  mesh = await startTestMesh()
  workspace = await mesh.addWorkspace()
  folder = mkdtempSync(path.join(tmpdir(), "runwarden-cli-"))
})
afterAll(async () => {
  await mesh?.[Symbol.asyncDispose]()
  if (folder !== undefined) rmSync(folder, { recursive: true, force: true })
})

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

interface Call {
  readonly as?: TestMember
  readonly env?: Record<string, string>
  readonly cwd?: string
  readonly stdin?: string
}

/** Runs the command to its end. */
function cli(args: readonly string[], call: Call = {}): Promise<Ended> {
  const { as = workspace.member, env, cwd = folder, stdin = "" } = call
  const child = spawn(process.execPath, [path.join(root, "cli/runwarden.js"), ...args], {
    cwd,
    env: {
      PATH: process.env.PATH ?? "",
      HOME: folder,
      RUNWARDEN_URL: mesh.url,
      RUNWARDEN_API_KEY: as.apiKey,
      ...env,
    },
  })
  const ended: { stdout: string; stderr: string } = { stdout: "", stderr: "" }
  child.stdout.setEncoding("utf8").on("data", (text: string) => (ended.stdout += text))
  child.stderr.setEncoding("utf8").on("data", (text: string) => (ended.stderr += text))
  child.stdin.end(stdin)
  return new Promise((resolve, reject) => {
    child.on("error", reject)
    child.on("close", (code) => resolve({ code, ...ended }))
  })
}

test("a plan runs to its end, and the history is told step by step", async () => {
  const started = await cli(
    ["run", "start", "-f", "examples/plans/set-up-project.yaml", "--wait"],
    {
      cwd: root,
    },
  )
  expect(started).toMatchObject({ code: 0, stderr: "" })
  expect(started.stdout).toContain("✓ step 2  projects/document.create: succeeded")
})
