// An MCP server through the whole mesh: its tool is confirmed and run, changes, is looked at,
// activated and rolled back, and locked, by the commands that people use.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { afterAll, expect, test } from "vitest"
import { until } from "../mesh/testing.ts"
import { root, useCliFixture } from "./cli-process.ts"

const folder = mkdtempSync(path.join(tmpdir(), "runwarden-mcp-"))
const servers = path.join(folder, "servers.json")
const effects = path.join(folder, "effects")
const args = [
  path.join(root, "mesh/fixtures/mcp-server.ts"),
  effects,
  path.join(folder, "received"),
]
writeFileSync(servers, JSON.stringify({ mcpServers: { far: { command: process.execPath, args } } }))
const { cli, json, write } = useCliFixture({ TOOLS_MCP_SERVERS: servers, TOOLS_REFRESH_MS: "500" })
const plan = "name: act\nsteps:\n  - tool: far/act\n    arguments: { do: once }\n"

afterAll(() => rmSync(folder, { recursive: true, force: true }))

test("its tool waits for a person, runs once, and answers", async () => {
  await until(async () => (await json(["tool", "list", "--provider", "far"])).tools?.length === 1)
  const started = await cli(["run", "start", "--file", write("act.yaml", plan), "--wait"])
  expect(started.code).toBe(3)
  const approvalId = /approval confirm (\S+)/.exec(started.stdout + started.stderr)?.[1] ?? ""
  expect((await cli(["approval", "confirm", approvalId, "--yes"], "approver")).code).toBe(0)
  const runId = /run (\S+)/.exec(started.stdout)?.[1] ?? ""
  await until(async () => (await json(["run", "get", runId])).run.state === "RUN_STATE_SUCCEEDED")
  expect(readFileSync(effects, "utf8")).toBe("once\n")
})

test("its changed tool is shown, activated, used and rolled back", async () => {
  const lock = path.join(folder, "tools.lock.json")
  await cli(["tool", "lock", "--file", lock])
  expect((await cli(["tool", "check", "--file", lock])).code).toBe(0)

  writeFileSync(`${effects}.description`, "Acts, and tells everybody.")
  await until(async () => (await json(["tool", "versions", "far/act"])).versions.length === 2)
  const refused = await cli(["run", "start", "--file", write("act.yaml", plan)])
  expect(refused.stderr).toContain("There is no active tool far/act")
  const drifted = await cli(["tool", "check", "--file", lock])
  expect(drifted.code).toBe(1)
  expect(drifted.stdout).toMatch(/far\/act: version mcp-\w+ is locked, and none is in use/)

  const shown = await cli(["tool", "diff", "far/act"])
  expect(shown.stdout).toMatch(/state +not reviewed/)
  expect(shown.stdout).toContain("/description: says something else")
  expect((await cli(["tool", "activate", "far/act"], "admin")).stderr).toContain("--yes")
  expect((await cli(["tool", "activate", "far/act", "--yes"], "member")).stderr).toContain(
    "(ROLE_TOO_LOW)",
  )
  const activated = await cli(["tool", "activate", "far/act", "--yes"], "admin")
  expect(activated.stdout).toMatch(
    /New runs use mcp-\w+ of far\/act, before the deployment's version/,
  )
  const [used] = (await json(["tool", "list", "--provider", "far"])).tools
  expect(used.definition.description).toBe("Acts, and tells everybody.")
  expect((await cli(["run", "start", "--file", write("act.yaml", plan)])).code).toBe(0)
  expect((await cli(["tool", "check", "--file", lock])).stdout).toMatch(
    /is locked, mcp-\w+ is in use/,
  )

  expect((await cli(["tool", "rollback", "far/act"], "admin")).stdout).toContain(
    "the deployment uses",
  )
  expect((await json(["tool", "list", "--provider", "far"])).tools ?? []).toEqual([])
})
