/**
 * The MCP servers of the deployment: a file in the form that MCP clients use (`mcpServers`), with what
 * the operator says of single tools. No other process is ever started.
 */
import { accessSync, constants, readFileSync } from "node:fs"
import { delimiter, join } from "node:path"
import { parse } from "yaml"
import { z } from "zod"
import { Effect, RiskClass } from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { ConfigError, type Environment } from "../../../mesh/config.ts"
import type { ToolSetting } from "./definition.ts"
import type { StdioCommand } from "./stdio.ts"

export interface McpServer {
  readonly name: string
  readonly connection: McpConnection
  readonly settings: ReadonlyMap<string, ToolSetting>
  readonly maxSessions: number
}

export type McpConnection =
  | ({ readonly kind: "stdio" } & StdioCommand)
  | {
      readonly kind: "http"
      readonly url: URL
      readonly headers: Readonly<Record<string, string>>
    }

const riskClasses = { low: RiskClass.LOW, medium: RiskClass.MEDIUM, high: RiskClass.HIGH } as const
const effects = { read: Effect.READ, keyed: Effect.KEYED, unsafe: Effect.UNSAFE } as const

const namePattern = /^[a-z][a-z0-9-]{0,62}$/
const httpUrl = z.url({ protocol: /^https?$/ })
const texts = z.record(z.string(), z.string())
const common = {
  tools: z
    .record(
      z.string(),
      z.strictObject({
        riskClass: z.enum(["low", "medium", "high"]).optional(),
        effect: z.enum(["read", "keyed", "unsafe"]).optional(),
      }),
    )
    .default({}),
}
const stdio = z.strictObject({
  type: z.literal("stdio").optional(),
  command: z.string().min(1),
  args: z.array(z.string()).default([]),
  env: texts.default({}),
  cwd: z.string().optional(),
  maxSessions: z.number().int().min(2).max(1_000).default(8),
  ...common,
})
const http = z.strictObject({
  type: z.enum(["http", "streamable-http"]).optional(),
  url: z.string(),
  headers: texts.default({}),
  maxSessions: z.number().int().min(2).max(10_000).default(256),
  ...common,
})
const file = z.strictObject({
  mcpServers: z.record(
    z.string(),
    z.unknown().transform((value, context) => {
      const isRemote = typeof value === "object" && value !== null && "url" in value
      const read = isRemote ? http.safeParse(value) : stdio.safeParse(value)
      if (read.success) return read.data
      for (const { path, message } of read.error.issues)
        context.addIssue({ code: "custom", path, message })
      return z.NEVER
    }),
  ),
})

/**
 * Reads the file, JSON or YAML. `${NAME}` in a command's arguments and variables, in a URL and in
 * headers stands for that variable of `env`. Throws a ConfigError that names each place.
 */
export function readMcpServers(path: string, env: Environment): readonly McpServer[] {
  const read = file.safeParse(contentOf(path))
  if (!read.success) {
    throw new ConfigError(
      read.error.issues.map((issue) => `${path}: ${issue.path.join(".")}: ${issue.message}`),
    )
  }
  const problems: string[] = []
  const servers = Object.entries(read.data.mcpServers).map(([name, written]): McpServer => {
    const note: Note = (where, what) =>
      problems.push(`${path}: mcpServers.${name}.${where}: ${what}`)
    if (!namePattern.test(name)) note("name", "it is of a-z, 0-9 and -, at most 63")
    return {
      name,
      connection: connectionOf(written, env, note),
      settings: settingsOf(written),
      maxSessions: written.maxSessions,
    }
  })
  if (problems.length > 0) throw new ConfigError(problems)
  return servers
}

type Written = z.infer<typeof stdio> | z.infer<typeof http>
type Note = (where: string, what: string) => void

function connectionOf(written: Written, env: Environment, note: Note): McpConnection {
  const expand = (where: string, text: string) =>
    text.replaceAll(/\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g, (_, variable: string) => {
      const value = env[variable]
      if (value === undefined) note(where, `the variable ${variable} is not set`)
      return value ?? ""
    })
  const expandAll = (where: string, values: Readonly<Record<string, string>>) =>
    Object.fromEntries(
      Object.entries(values).map(([key, text]) => [key, expand(`${where}.${key}`, text)]),
    )
  if ("url" in written) {
    const url = expand("url", written.url)
    const isUrl = httpUrl.safeParse(url).success
    if (!isUrl) note("url", "it is no URL of http or https")
    return {
      kind: "http",
      url: new URL(isUrl ? url : "http://invalid"),
      headers: expandAll("headers", written.headers),
    }
  }
  const command = locate(written.command, env.PATH ?? "")
  if (command === undefined) note("command", `${written.command} is not found in PATH`)
  return {
    kind: "stdio",
    command: command ?? written.command,
    args: written.args.map((arg, index) => expand(`args.${index}`, arg)),
    env: expandAll("env", written.env),
    cwd: written.cwd,
  }
}

function settingsOf({ tools }: Written): ReadonlyMap<string, ToolSetting> {
  return new Map(
    Object.entries(tools).map(([tool, { riskClass, effect }]) => [
      tool,
      { riskClass: riskClass && riskClasses[riskClass], effect: effect && effects[effect] },
    ]),
  )
}

function contentOf(path: string): unknown {
  try {
    return parse(readFileSync(path, "utf8"))
  } catch (error) {
    throw new ConfigError([`${path}: ${error instanceof Error ? error.message : String(error)}`])
  }
}

/** The server's own variables need not have a PATH, so its command is found by ours. */
function locate(command: string, path: string): string | undefined {
  if (command.includes("/")) return command
  return path
    .split(delimiter)
    .map((folder) => join(folder, command))
    .find((candidate) => {
      try {
        accessSync(candidate, constants.X_OK)
        return true
      } catch {
        return false
      }
    })
}
