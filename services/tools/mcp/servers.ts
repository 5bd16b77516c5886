/**
 * The MCP servers of the deployment: a file in the form that MCP clients use (`mcpServers`), with what
 * the operator says of single tools, and the commands that workspaces may have started for themselves
 * (`providerCommands`). No other process is ever started.
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

/** A command that workspaces may have started as a provider of their own, each for itself. */
export interface ProviderCommand {
  readonly start: StdioCommand
  /** Variables that a workspace may set, beside those of the command. */
  readonly variables: readonly string[]
  /** Processes of it at a time, of all workspaces together. */
  readonly maxProcesses: number
}

/** What the file holds. */
export interface McpFile {
  readonly servers: readonly McpServer[]
  readonly commands: ReadonlyMap<string, ProviderCommand>
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
/** Variables that would make a command another one. */
const codeVariables =
  /^(LD_.*|DYLD_.*|NODE_.*|PYTHON.*|RUBY.*|PERL.*|JAVA_.*|JDK_.*|BASH_ENV|ENV|PATH|HOME|SHELL|IFS|npm_.*)$/i
const command = z.strictObject({
  command: z.string().min(1),
  args: z.array(z.string()).default([]),
  env: texts.default({}),
  cwd: z.string().optional(),
  variables: z
    .array(
      z
        .string()
        .regex(/^[A-Za-z][A-Za-z0-9_]{0,63}$/, "it is no name of a variable")
        .refine((name) => !codeVariables.test(name), "it could make the command another one"),
    )
    .default([]),
  maxProcesses: z.number().int().min(1).max(1_000).default(8),
})
const file = z.strictObject({
  providerCommands: z.record(z.string(), command).default({}),
  mcpServers: z
    .record(
      z.string(),
      z.unknown().transform((value, context) => {
        const isRemote = typeof value === "object" && value !== null && "url" in value
        const read = isRemote ? http.safeParse(value) : stdio.safeParse(value)
        if (read.success) return read.data
        for (const { path, message } of read.error.issues)
          context.addIssue({ code: "custom", path, message })
        return z.NEVER
      }),
    )
    .default({}),
})

/**
 * Reads the file, JSON or YAML. `${NAME}` in a command's arguments and variables, in a URL and in
 * headers stands for that variable of `env`. Throws a ConfigError that names each place.
 */
export function readMcpServers(path: string, env: Environment): McpFile {
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
  const commands = Object.entries(read.data.providerCommands).map(
    ([name, written]): [string, ProviderCommand] => {
      const note: Note = (where, what) =>
        problems.push(`${path}: providerCommands.${name}.${where}: ${what}`)
      if (!namePattern.test(name)) note("name", "it is of a-z, 0-9 and -, at most 63")
      const { variables, maxProcesses } = written
      return [name, { start: startOf(written, env, note), variables, maxProcesses }]
    },
  )
  if (problems.length > 0) throw new ConfigError(problems)
  return { servers, commands: new Map(commands) }
}

type Written = z.infer<typeof stdio> | z.infer<typeof http>
type Note = (where: string, what: string) => void

function connectionOf(written: Written, env: Environment, note: Note): McpConnection {
  if (!("url" in written)) return { kind: "stdio", ...startOf(written, env, note) }
  const expand = expander(env, note)
  const url = expand("url", written.url)
  const isUrl = httpUrl.safeParse(url).success
  if (!isUrl) note("url", "it is no URL of http or https")
  return {
    kind: "http",
    url: new URL(isUrl ? url : "http://invalid"),
    headers: expandAll(expand, "headers", written.headers),
  }
}

/** How a process is started. */
function startOf(
  written: Pick<z.infer<typeof stdio>, "command" | "args" | "env" | "cwd">,
  env: Environment,
  note: Note,
): StdioCommand {
  const expand = expander(env, note)
  const command = locate(written.command, env.PATH ?? "")
  if (command === undefined) note("command", `${written.command} is not found in PATH`)
  return {
    command: command ?? written.command,
    args: written.args.map((arg, index) => expand(`args.${index}`, arg)),
    env: expandAll(expand, "env", written.env),
    cwd: written.cwd,
  }
}

type Expand = (where: string, text: string) => string

function expander(env: Environment, note: Note): Expand {
  return (where, text) =>
    text.replaceAll(/\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g, (_, variable: string) => {
      const value = env[variable]
      if (value === undefined) note(where, `the variable ${variable} is not set`)
      return value ?? ""
    })
}

function expandAll(expand: Expand, where: string, values: Readonly<Record<string, string>>) {
  return Object.fromEntries(
    Object.entries(values).map(([key, text]) => [key, expand(`${where}.${key}`, text)]),
  )
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
