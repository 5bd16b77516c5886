// The runwarden command against a whole mesh: documents, everything else of the workspace, how the
// mesh is found, and what is said when something is wrong.
import { mkdirSync, mkdtempSync, rmSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import path from "node:path"
import { describe, expect, test } from "vitest"
import { dataFolderFor } from "../mesh/embedded-postgres.ts"
import { newId } from "../mesh/ids.ts"
import { writeLocalState } from "../mesh/local-state.ts"
import { until } from "../mesh/testing.ts"
import { type Ended, root, runInside, useCliFixture } from "./cli-process.ts"

const fixture = useCliFixture()
const { cli, json, write, folder } = fixture

describe("documents", () => {
  test("a folder is ingested once, told file by file, and found", async () => {
    write("docs/one.md", "# Fjords\n\nA fjord is a long narrow inlet of the sea.\n")
    write("docs/deep/two.html", "<title>Moors &amp; bogs</title><p>A moor is open upland.</p>")
    write("docs/three.txt", "A dune is a hill of sand.")
    write("docs/.hidden.md", "# Not for you")
    write("docs/picture.png", "not a document")
    write("docs/broken.md", Buffer.from([0x23, 0x20, 0xff, 0xfe, 0x00]))
    const call = { cwd: folder }
    const first = await cli(["document", "ingest", "docs"], "member", call)
    expect(first.code).toBe(1)
    expect(first.stdout).toContain("✗ 3 new, 0 updated, 0 unchanged, 1 failed")
    expect(first.stderr).toContain("docs/broken.md: The file is no UTF-8 text. (no_text)")

    rmSync(path.join(folder, "docs/broken.md"))
    write("docs/three.txt", "A dune is a hill of sand, built by wind.")
    const second = await cli(["document", "ingest", "docs", "-o", "json"], "member", call)
    expect(second).toMatchObject({ code: 0, stderr: "" })
    expect(JSON.parse(second.stdout)).toEqual({ new: 0, updated: 1, unchanged: 2, failed: [] })
    const third = await cli(["document", "ingest", "docs/**/*.md", "docs/deep"], "member", call)
    expect(third.stdout).toBe("✓ 0 new, 0 updated, 2 unchanged, 0 failed\n")

    const { documents } = await json(["document", "list", "--limit", "1000"])
    const mine = documents.filter((one: { sourceUri: string }) => one.sourceUri.startsWith("docs/"))
    const titles = mine.map((one: { title: string }) => one.title).sort()
    expect(titles).toEqual(["Fjords", "Moors & bogs", "three.txt"])

    const found = await cli(["search", "what", "is", "a", "fjord"], "viewer")
    expect(found.stdout).toContain("1. Fjords")
    expect(found.stdout).toContain("long narrow inlet")
    const { passages } = await json(["search", "fjord"])
    const citation = JSON.stringify(passages[0])
    const verified = await cli(["citation", "verify"], "viewer", { stdin: citation })
    expect(verified).toMatchObject({ code: 0 })
    const forged = citation.replace("narrow", "broad")
    expect((await cli(["citation", "verify", forged])).code).toBe(1)

    const { documentId } = passages[0].citation
    const shown = await cli(["document", "get", documentId, "--text"])
    expect(shown.stdout).toContain("docs/one.md")
    expect((await cli(["document", "delete", documentId])).code).toBe(0)
    expect((await cli(["document", "get", documentId])).stderr).toContain("(NOT_FOUND)")
    const again = await cli(["document", "ingest", "docs/one.md"], "member", call)
    expect(again.stdout).toContain("1 new")
  })

  test("a PDF is found by its page, and a broken one is named", async () => {
    write("files/report.pdf", onePage("Quarterly pelicans rose by a third."))
    write("files/broken.pdf", "%PDF-1.7\nnothing")
    write("files/broken.docx", "PK")
    const at = { cwd: folder }
    const { code, stdout, stderr } = await cli(["document", "ingest", "files"], "member", at)
    expect(code).toBe(1)
    expect(stdout).toContain("1 new, 0 updated, 0 unchanged, 2 failed")
    expect(stderr).toMatch(/broken\.pdf: .*data: it is no PDF, or a broken one/)
    expect(stderr).toMatch(/broken\.docx: .*data: it is no DOCX, or a broken one/)
    const again = await cli(["document", "ingest", "files/report.pdf"], "member", at)
    expect(again.stdout).toContain("1 unchanged")
    const { passages } = await json(["search", "quarterly", "pelicans"])
    expect(passages[0].citation).toMatchObject({ title: "report.pdf", page: 1 })
    const citation = JSON.stringify(passages[0])
    expect((await cli(["citation", "verify"], "viewer", { stdin: citation })).code).toBe(0)
    rmSync(path.join(folder, "files"), { recursive: true })
  })

  test("a terminal sees a bar", async () => {
    const { code, stderr } = await cli(["document", "ingest", "docs"], "member", {
      cwd: folder,
      typed: "",
    })
    expect(code).toBe(0)
    expect(stderr).toContain("3/3 documents")
  })

  test("what cannot be ingested is named", async () => {
    const at = { cwd: folder }
    const picture = await cli(["document", "ingest", "docs/picture.png"], "member", at)
    expect(picture.stderr).toContain("(unsupported_media_type)")
    const nothing = await cli(["document", "ingest", "nowhere"], "member", at)
    expect(nothing).toMatchObject({ code: 1 })
    expect(nothing.stderr).toContain("There is no file nowhere")
    write("new/one.md", "# One")
    write("new/two.md", "# Two")
    const viewer = await cli(["document", "ingest", "new"], "viewer", at)
    expect(viewer.stderr).toContain("(ROLE_TOO_LOW)")
    expect(viewer.stderr.match(/ROLE_TOO_LOW/g)).toHaveLength(1)
  })
})

describe("the rest of the workspace", () => {
  test("projects", async () => {
    const { project } = await json(["project", "create", "Apollo", "--description", "First"])
    const { projectId } = project
    expect((await cli(["project", "transition", projectId, "active"])).stdout).toContain("active")
    const illegal = await cli(["project", "transition", projectId, "active"])
    expect(illegal.stderr).toContain("(ILLEGAL_TRANSITION)")
    const updated = await json(["project", "update", projectId, "--name", "Artemis"])
    expect(updated.project.name).toBe("Artemis")
    const stale = ["project", "update", projectId, "--name", "X", "--etag", project.etag]
    expect((await cli(stale)).stderr).toContain("(ETAG_MISMATCH)")
    expect((await cli(["project", "list", "--state", "active", "-q"])).stdout).toContain(projectId)
    expect((await cli(["project", "archive", projectId])).code).toBe(0)
    expect((await json(["project", "get", projectId])).project.state).toMatch(/ARCHIVED/)
  })

  test("tools and policies", async () => {
    const { tools } = await json(["tool", "list"])
    expect(tools.map((one: { fullName: string }) => one.fullName)).toContain(
      "projects/project.archive",
    )
    expect((await cli(["tool", "get", "project.archive"])).stdout).toMatch(/risk +high/)
    expect((await cli(["tool", "providers"])).stdout).toContain("ready")
    expect((await json(["policy", "show"])).activePolicy.policy.policyVersion).toBe("default@2")
    expect((await cli(["policy", "show", "default@2"])).stdout).toContain("instruction-override")
    expect((await cli(["policy", "list"])).stderr).toContain("policy show")
  })

  test("a policy is stored, tried, put in force and taken out of it", async () => {
    const created = await cli(["policy", "create", "-f", "examples/policy.yaml"], "admin")
    expect(created.stdout).toMatch(/policy +house@1\n.*active +no/s)
    const harmless = await cli(["policy", "test", "house@1", "a plain question"])
    expect([harmless.code, harmless.stdout]).toEqual([0, expect.stringMatching(/verdict +allowed/)])
    const named = await cli(["policy", "test", "house@1", "what of the Night Train?"])
    expect([named.code, named.stdout]).toEqual([1, expect.stringContaining("code-names")])
    const nothing = await cli(["policy", "test", "house@1"])
    expect(nothing.stderr).toContain("either a text, or a JSON object")
    expect((await cli(["policy", "activate", "house@1"], "member")).stderr).toContain(
      "this needs admin",
    )
    expect((await cli(["policy", "activate", "house@1"], "admin")).stdout).toMatch(/active +yes/)
    expect((await cli(["policy", "list"])).stdout).toMatch(/house@1 +yes/)
    expect((await cli(["policy", "activate", "default@2"], "admin")).code).toBe(0)
  })

  test("metrics and alerts", async () => {
    await cli(["run", "start", "-f", "examples/plans/set-up-project.yaml", "--wait"])
    await until(async () => {
      const { metrics } = await json(["metrics", "--window", "1h"], "viewer")
      return (metrics.runsByState?.succeeded ?? 0) > 0
    })
    expect((await cli(["metrics"])).stdout).toMatch(/run success rate +\d+\.\d %/)
    const series = await json(["metrics", "series", "--window", "2h", "--step", "30m"])
    expect(series.points.length).toBeGreaterThanOrEqual(4)
    expect((await cli(["metrics", "series"])).stdout).toContain("BLOCKED")
    expect(await json(["alerts"])).toBeTypeOf("object")
    expect((await cli(["alerts", "list", "--state", "resolved"])).code).toBe(0)
    const unknown = await cli(["alerts", "acknowledge", newId()])
    expect(unknown.stderr).toContain("(NOT_FOUND)")
  })

  test("members and keys", async () => {
    const added = await json(["member", "add", "Importer", "--service"], "admin")
    const { actorId } = added.member
    const created = await cli(["key", "create", actorId, "--expires", "1h", "-q"], "admin")
    const apiKey = created.stdout.trim()
    expect(apiKey).toMatch(/^rw_/)
    const env = { RUNWARDEN_URL: fixture.mesh.url, RUNWARDEN_API_KEY: apiKey }
    const seen = await runInside(["workspace", "list"], { env })
    expect(seen.stdout).toContain("Importer")
    const changed = await json(["member", "update", actorId, "--role", "viewer"], "admin")
    expect(changed.member.role).toBe("ROLE_VIEWER")
    const { apiKeys } = await json(["key", "list", "--actor", actorId], "admin")
    expect((await cli(["key", "revoke", apiKeys[0].keyId], "admin")).code).toBe(0)
    expect((await runInside(["run", "list"], { env })).stderr).toContain("(UNAUTHENTICATED)")
    expect((await cli(["key", "list"], "admin")).stdout).toContain("revoked")
    expect((await cli(["member", "get", actorId])).stdout).toContain("viewer")
    expect((await cli(["member", "list"])).stdout).toContain("Importer")
    expect((await cli(["member", "remove", actorId], "admin")).stdout).toContain("removed")
    expect((await cli(["member", "add", "Eve"])).stderr).toContain("(ROLE_TOO_LOW)")
  })

  test("the workspace is found by the key", async () => {
    const { workspace: found } = await json(["workspace", "get"])
    expect(found.workspaceId).toBe(fixture.workspace.workspaceId)
  })

  test("a list that goes on can be followed", async () => {
    await json(["project", "create", "A"])
    await json(["project", "create", "B"])
    const first = await json(["project", "list", "--limit", "1"])
    expect(first.projects).toHaveLength(1)
    const next = await json([
      "project",
      "list",
      "--limit",
      "1",
      "--page-token",
      first.nextPageToken,
    ])
    expect(next.projects[0].projectId).not.toBe(first.projects[0].projectId)
  })
})

describe("what goes wrong is said in one sentence", () => {
  function failed(ended: Ended): string {
    expect(ended.code).toBe(1)
    expect(ended.stdout).toBe("")
    expect(ended.stderr).not.toMatch(/\n\s+at /)
    return ended.stderr
  }

  test("nothing listens there", async () => {
    const env = { RUNWARDEN_URL: "http://127.0.0.1:9", RUNWARDEN_API_KEY: "x" }
    const said = failed(await runInside(["run", "list"], { env }))
    expect(said).toContain("No mesh runs at http://127.0.0.1:9")
    expect(said).toContain("npm start")
  })

  test("something else listens there", async () => {
    const server = createServer((_, response) => response.end("hello"))
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
    const { port } = server.address() as AddressInfo
    const env = { RUNWARDEN_URL: `http://127.0.0.1:${port}`, RUNWARDEN_API_KEY: "x" }
    expect(failed(await runInside(["run", "list"], { env }))).toContain(String(port))
    server.closeAllConnections()
    server.close()
  })

  test("a wrong key", async () => {
    const env = { RUNWARDEN_URL: fixture.mesh.url, RUNWARDEN_API_KEY: "rw_wrong" }
    const said = failed(await runInside(["run", "list"], { env }))
    expect(said).toContain("(UNAUTHENTICATED)")
    expect(said).toContain("Give a valid API key.")
  })

  test("no key, and a workspace of others", async () => {
    const env = { RUNWARDEN_URL: fixture.mesh.url }
    expect(failed(await runInside(["run", "list"], { env, checkout: folder }))).toContain(
      "No API key",
    )
    const other = await fixture.mesh.addWorkspace()
    const args = ["run", "list", "--workspace", other.workspaceId]
    expect(failed(await cli(args))).toContain("(NOT_A_MEMBER)")
    expect(failed(await cli(["run", "list", "--workspace", "demo"]))).toContain("by its id")
  })

  test("as JSON too, as the one document", async () => {
    const wrong = await cli(["run", "get", newId(), "-o", "json"])
    expect(wrong).toMatchObject({ code: 1, stderr: "" })
    expect(JSON.parse(wrong.stdout).error).toMatchObject({
      reason: "NOT_FOUND",
      metadata: { resource: "run" },
    })
    const usage = await cli(["run", "lits", "-o", "json"])
    expect(JSON.parse(usage.stdout).error).toMatchObject({ reason: "usage" })
  })

  test.each([
    [["nope"], "Unknown command 'nope'"],
    [["run", "lits"], "Did you mean list?"],
    [["run", "start"], "--file"],
    [["run", "start", "-f", "/no/such/plan.yaml"], "there is no such file"],
    [["run", "start", "-f", "docs"], "it is a folder"],
    [["run", "get", "12"], "must be a whole id"],
    [["run", "get"], "Missing required argument 'run-id'"],
    [["run", "list", "--limit", "0"], "a whole number from 1"],
    [["run", "list", "--state", "done"], "Allowed choices are"],
    [["run", "list", "-o", "xml"], "Allowed choices are table, json"],
    [["run", "list", "--page-token", "x"], "(INVALID_PAGE_TOKEN)"],
    [["metrics", "--window", "soon"], "--window must be a length of time"],
    [["search", " "], "nothing to search for"],
    [["tool-call", "settle", "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51"], "--result or --not-done"],
    [["run", "list", "--as", "admin"], "an API key is given"],
  ])("%j", async (args, message) => {
    expect(failed(await cli(args))).toContain(message)
  })
})

describe("the local mesh is found", () => {
  test("by the state that npm start leaves, as the least member who may do it", async () => {
    const checkout = mkdtempSync(path.join(tmpdir(), "runwarden-checkout-"))
    const dataFolder = dataFolderFor(checkout)
    mkdirSync(dataFolder, { recursive: true })
    const call = { env: {}, checkout }
    try {
      expect((await runInside(["run", "list"], call)).stderr).toContain("No mesh was started")
      const roles = ["admin", "approver", "member", "viewer"] as const
      writeLocalState(dataFolder, {
        url: fixture.mesh.url,
        workspaceId: fixture.workspace.workspaceId,
        members: roles.map((role) => ({ ...fixture.workspace[role], role, displayName: role })),
      })
      expect((await runInside(["workspace", "list"], call)).stdout).toMatch(/member +member/)
      const approver = await runInside(["--as", "approver", "workspace", "list"], call)
      expect(approver.stdout).toMatch(/approver +approver/)
      expect((await runInside(["key", "list"], call)).code).toBe(0)
      const viewer = ["--as", "viewer", "project", "create", "x"]
      expect((await runInside(viewer, call)).stderr).toContain("(ROLE_TOO_LOW)")

      const plan = "examples/plans/archive-project.yaml"
      const started = await runInside(["run", "start", "-f", path.join(root, plan), "-w"], call)
      const hint = /npx runwarden (--as approver approval confirm \S+)/.exec(started.stdout)?.[1]
      expect(hint).toBeDefined()
      const confirmed = await runInside([...(hint ?? "").split(" "), "--yes"], call)
      expect(confirmed.code).toBe(0)
    } finally {
      rmSync(checkout, { recursive: true, force: true })
      rmSync(dataFolder, { recursive: true, force: true })
    }
  })
})

/** A PDF of one line; readers find its objects without a table of them. */
function onePage(text: string): string {
  const drawn = `BT /F1 11 Tf 72 700 Td (${text}) Tj ET`
  return `%PDF-1.7
1 0 obj << /Type /Catalog /Pages 2 0 R >> endobj
2 0 obj << /Type /Pages /Kids [4 0 R] /Count 1 >> endobj
3 0 obj << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> endobj
4 0 obj << /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /Font << /F1 3 0 R >> >> >> endobj
5 0 obj << /Length ${drawn.length} >> stream
${drawn}
endstream endobj
trailer << /Root 1 0 R >>`
}
