import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { ConfigError } from "../../../mesh/config.ts"
import { readMcpServers } from "./servers.ts"

const folder = mkdtempSync(join(tmpdir(), "runwarden-mcp-"))
const file = join(folder, "servers.json")
const env = { PATH: "/usr/bin:/bin", TOKEN: "secret", HOST: "mcp.example.com", BAD: "a b" }

afterAll(() => rmSync(folder, { recursive: true, force: true }))

describe("readMcpServers", () => {
  it("reads the form that MCP clients use, and what is said of single tools", () => {
    const servers = read({
      shell: {
        command: "sh",
        args: ["-c", `echo ${variable("TOKEN")}`],
        env: { KEY: variable("TOKEN") },
        tools: { look: { riskClass: "low", effect: "read" } },
      },
      far: {
        type: "http",
        url: `https://${variable("HOST")}/mcp`,
        headers: { "X-Key": `a-${variable("TOKEN")}` },
      },
    })
    expect(servers).toEqual([
      {
        name: "shell",
        connection: {
          kind: "stdio",
          command: expect.stringMatching(/^\/(usr\/)?bin\/sh$/),
          args: ["-c", "echo secret"],
          env: { KEY: "secret" },
          cwd: undefined,
        },
        settings: new Map([["look", { riskClass: RiskClass.LOW, effect: Effect.READ }]]),
        maxSessions: 8,
      },
      {
        name: "far",
        connection: {
          kind: "http",
          url: new URL("https://mcp.example.com/mcp"),
          headers: { "X-Key": "a-secret" },
        },
        settings: new Map(),
        maxSessions: 256,
      },
    ])
  })

  it.each([
    ["an unknown member", { a: { command: "sh", comand: "x" } }, /mcpServers\.a.*comand/],
    [
      "a command that is not there",
      { a: { command: "no-such-thing" } },
      /a\.command: no-such-thing is not found/,
    ],
    [
      "a variable that is not set",
      { a: { command: "sh", env: { K: variable("NOPE") } } },
      /a\.env\.K: the variable NOPE is not set/,
    ],
    ["a name that cannot begin a tool's", { "A b": { command: "sh" } }, /A b.*a-z, 0-9/],
    ["a URL that a variable breaks", { a: { url: `https://${variable("BAD")}/` } }, /a\.url/],
    ["a URL of another kind", { a: { url: "file:///etc/passwd" } }, /a\.url/],
    [
      "a risk class that there is not",
      { a: { command: "sh", tools: { t: { riskClass: "none" } } } },
      /a\.tools\.t\.riskClass/,
    ],
  ])("names the place of %s", (_, servers, problem) => {
    expect(() => read(servers)).toThrow(ConfigError)
    expect(() => read(servers)).toThrow(problem)
  })

  it("tells of a file that is not there, or no JSON and no YAML", () => {
    expect(() => readMcpServers(join(folder, "none"), env)).toThrow(/none: ENOENT/)
    writeFileSync(file, "{ a: [")
    expect(() => readMcpServers(file, env)).toThrow(ConfigError)
  })

  function read(mcpServers: object) {
    writeFileSync(file, JSON.stringify({ mcpServers }))
    return readMcpServers(file, env).servers
  }
})

/** How the file names a variable. */
function variable(name: string): string {
  return `\${${name}}`
}
