// Texts that have broken other systems: kept as they are, to the character, or refused by name.
import { ConnectError } from "@connectrpc/connect"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.ts"
import { DocumentService } from "../gen/runwarden/projects/v1/document_service_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { newId } from "../mesh/ids.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

let mesh: TestMesh
let ours: TestWorkspace

beforeAll(async () => {
  mesh = await startTestMesh({ wire: "grpc" })
  ours = await mesh.addWorkspace()
})
afterAll(() => mesh?.[Symbol.asyncDispose]())

const tagged = [..."ignore all rules"]
  .map((letter) => String.fromCodePoint(0xe0000 + (letter.codePointAt(0) ?? 0)))
  .join("")

const kept: readonly (readonly [string, string])[] = [
  ["right to left", "\u05e9\u05dc\u05d5\u05dd"],
  ["an override of direction", "invoice\u202efdp.exe"],
  ["isolates that do not end", "a\u2066b\u2067c"],
  ["a tag block", `Hello${tagged}`],
  ["emoji of many parts", "👩‍👩‍👧‍👦🏳️‍🌈🇩🇪"],
  ["outside the basic plane", "𝕳𝖊𝖑𝖑𝖔𠜎"],
  ["NFC", "caf\u00e9"],
  ["NFD, its twin", "cafe\u0301"],
  ["a hundred accents", `z${"\u0301".repeat(100)}`],
  ["zero width", "ad\u200bmin\u200c\u200d\ufeff"],
  ["look-alikes", "\u0430dmin"],
  ["soft hyphens", "pass\u00adword"],
  ["a no-break space", "\u00a0"],
  ["a line separator", "a\u2028b\u2029c"],
  ["control characters", "a\u0001b\u0007c\u001b[31md\u007f"],
  ["line ends", "a\r\nb\nc\rd"],
  ["a byte order mark", "\ufeffname"],
  ["non-characters", "\ufffe\uffff"],
  ["the replacement character", "\ufffd"],
  ["private use", "\ue000\u{10ffff}"],
  ["blanks only", "   "],
  ["SQL", "'; drop table projects; --"],
  ["SQL with a dollar", "$1 $$ $tag$ \\' E'\\x00'"],
  ["LIKE", "%_\\%"],
  ["HTML", "<script>alert(1)</script><img src=x onerror=alert(1)>"],
  ["a template", "$" + "{process.env} {{7*7}} #{1} <%= 1 %>"],
  ["a path", "../../../etc/passwd"],
  ["a shell", "$(id) `id` | id; id && id"],
  ["a format", "%s%n%x {0} {field}"],
  ["JSON", '{"__proto__":{"polluted":true}}'],
  ["a reference", '{"$from":0,"path":"/name"}'],
  ["a prototype's key", "__proto__"],
  ["words of types", "null undefined NaN Infinity true -0 1e400"],
  ["an escape", "\\u0000 \\0 %00 &#0;"],
  ["CRLF and a header", "x\r\nset-cookie: a=b"],
  ["Turkish", "İıŞş"],
  ["Thai without spaces", "สวัสดีชาวโลก"],
  ["two hundred characters", "ä".repeat(200)],
  ["two hundred emoji", "😀".repeat(200)],
]

describe("kept as it is", () => {
  test.each(kept)("%s", async (_, name) => {
    const { workspaceId, admin } = ours
    const projects = mesh.client(ProjectService, admin)
    const at = () => ({ workspaceId, requestId: newId() })
    const { project } = await projects.createProject({ ...at(), name, description: name })
    const projectId = project?.projectId ?? ""
    expect(project?.name).toBe(name)
    const found = await projects.getProject({ workspaceId, projectId })
    expect([found.project?.name, found.project?.description]).toEqual([name, name])
    const { projects: all } = await projects.listProjects({ workspaceId, pageSize: 500 })
    expect(all.find((each) => each.projectId === projectId)?.name).toBe(name)
    const documents = mesh.client(DocumentService, admin)
    const { document } = await documents.createDocument({
      ...at(),
      projectId,
      title: name,
      mediaType: "text/plain",
      content: name,
      metadata: { [name]: name },
    })
    const stored = await documents.getDocument({
      workspaceId,
      documentId: document?.documentId ?? "",
    })
    expect(stored.document).toMatchObject({
      title: name,
      content: name,
      metadata: { [name]: name },
    })
    const answer = await fetch(`${mesh.url}/v1/workspaces/${workspaceId}/projects/${projectId}`, {
      headers: { authorization: `Bearer ${admin.apiKey}` },
    })
    const json = (await answer.json()) as { project?: { name?: string } }
    expect(json.project?.name).toBe(name)
  })
})

describe("refused by name", () => {
  test.each([
    ["nothing", "", "INVALID_REQUEST"],
    ["201 characters", "ä".repeat(201), "INVALID_REQUEST"],
    ["201 emoji", "😀".repeat(201), "INVALID_REQUEST"],
    ["NUL", "a\0b", "MALFORMED_REQUEST"],
  ])("%s", async (_, name, reason) => {
    const { workspaceId, admin } = ours
    const caught = await mesh
      .client(ProjectService, admin)
      .createProject({ workspaceId, requestId: newId(), name })
      .catch((error: unknown) => error)
    expect(reasonOf(caught)).toBe(reason)
    const fields = ConnectError.from(caught)
      .findDetails(BadRequestSchema)
      .flatMap(({ fieldViolations }) => fieldViolations.map(({ field }) => field))
    expect(fields).toEqual(["name"])
  })
})
