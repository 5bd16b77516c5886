// The runwarden command as a child process against a whole mesh.
import { spawn } from "node:child_process"
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
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

// biome-ignore lint/suspicious/noExplicitAny: JSON of many shapes, read by the test that asked.
async function json(args: readonly string[], call: Call = {}): Promise<any> {
  const { stdout, stderr } = await cli(["-o", "json", ...args], call)
  expect(stderr).toBe("")
  return JSON.parse(stdout)
}

test("SMOKE", async () => {
  for (const args of [
    ["run", "start", "--file", "examples/plans/set-up-project.yaml", "--wait"],
    ["run", "start", "--file", "examples/plans/blocked.yaml", "--wait"],
    ["run", "start", "--file", "examples/plans/archive-project.yaml", "--wait"],
    ["run", "list"],
    ["approval", "list"],
    ["tool-call", "list"],
    ["document", "ingest", "docs"],
    ["document", "ingest", "docs"],
    ["search", "api key workspace"],
    ["--help"],
    ["run", "--help"],
    ["run", "start", "--help"],
    ["approval", "confirm", "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51"],
    ["nope"],
    ["run", "start"],
    ["run", "lits"],
    [],
  ]) {
    const t = performance.now()
    const r = await cli(args, { cwd: root })
    console.log(`$ runwarden ${args.join(" ")}  [${r.code}] ${Math.round(performance.now() - t)} ms\n${r.stdout}\n--stderr:\n${r.stderr}`)
  }
}, 120_000)

void [json, describe, mkdirSync, writeFileSync]
