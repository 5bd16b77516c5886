/** What the commands about providers are told, and how secrets reach them: never by the command line. */
import type { MessageInitShape } from "@bufbuild/protobuf"
import type { Command } from "commander"
import type { ProviderConnectionSchema } from "../gen/runwarden/tools/v1/provider_pb.ts"
import { Effect, RiskClass } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { CliError } from "./failure.ts"
import type { Io } from "./io.ts"

export interface WhereOptions {
  readonly grpc?: string
  readonly plaintext?: boolean
  readonly mcpUrl?: string
  readonly mcpCommand?: string
}

export interface CredentialOptions {
  readonly credential: string[]
  readonly fromEnv: string[]
}

export interface SettingOptions {
  readonly tool: string[]
}

export const credentialHelp = `
A credential is a header, gRPC metadata, or a variable of a command. Its value is read from the variable
that --from-env names, or else from the standard input, a line for each: the command line would show it
to every user of this machine. Nothing shows it again.`

export function addCredentialOptions(made: Command): Command {
  return made
    .option("--credential <name>", "a credential that goes with each call (repeatable)", gather, [])
    .option("--from-env <variable>", "the variable with its value (repeatable)", gather, [])
}

export function addSettingOption(made: Command): Command {
  return made.option(
    "--tool <name=risk,effect>",
    "what you say of a tool, such as order.get=low,read (repeatable)",
    gather,
    [],
  )
}

export function readConnection(
  options: WhereOptions,
): MessageInitShape<typeof ProviderConnectionSchema> {
  const { grpc, plaintext = false, mcpUrl, mcpCommand } = options
  const given = [grpc, mcpUrl, mcpCommand].filter((one) => one !== undefined)
  if (given.length !== 1) {
    throw new CliError("Where is it?", {
      next: "Give exactly one of --grpc, --mcp-url and --mcp-command.",
    })
  }
  if (grpc !== undefined) return { kind: { case: "grpc", value: { address: grpc, plaintext } } }
  if (mcpUrl !== undefined) return { kind: { case: "mcpHttp", value: { url: mcpUrl } } }
  return { kind: { case: "mcpStdio", value: { command: mcpCommand ?? "" } } }
}

const riskClasses: Readonly<Record<string, RiskClass>> = {
  low: RiskClass.LOW,
  medium: RiskClass.MEDIUM,
  high: RiskClass.HIGH,
}
const effects: Readonly<Record<string, Effect>> = {
  read: Effect.READ,
  keyed: Effect.KEYED,
  unsafe: Effect.UNSAFE,
}

export function readSettings({ tool }: SettingOptions) {
  return Object.fromEntries(
    tool.map((text) => {
      const [, name = "", risk = "", does = ""] = /^([^=]+)=([a-z]+),([a-z]+)$/.exec(text) ?? []
      const riskClass = riskClasses[risk]
      const effect = effects[does]
      if (riskClass === undefined || effect === undefined) {
        throw new CliError(`"${text}" says nothing of a tool that is understood.`, {
          next: "Write <name>=<low|medium|high>,<read|keyed|unsafe>.",
        })
      }
      return [name, { riskClass, effect }]
    }),
  )
}

/** The credentials with their values, from where nobody else sees them. */
export async function readCredentials(
  { credential, fromEnv }: CredentialOptions,
  { env, stdin }: Pick<Io, "env" | "stdin">,
): Promise<{ name: string; value: string }[]> {
  if (fromEnv.length > credential.length) {
    throw new CliError("There is a --from-env without a --credential before it.", {
      next: "Name the credential: --credential authorization --from-env TOKEN.",
    })
  }
  if (credential.some((name) => /[=:]/.test(name))) {
    throw new CliError("A credential is named without its value.", {
      next: "Give the value by --from-env <variable>, or on the standard input.",
    })
  }
  const missing = fromEnv.find((variable) => (env[variable] ?? "") === "")
  if (missing !== undefined) throw new CliError(`The variable ${missing} is not set.`)
  const values = fromEnv.map((variable) => env[variable] ?? "")
  const rest = credential.slice(values.length)
  if (rest.length > 0) values.push(...(await readLines(stdin, rest)))
  return credential.map((name, index) => ({ name, value: values[index] ?? "" }))
}

async function readLines(stdin: Io["stdin"], names: readonly string[]): Promise<string[]> {
  if (stdin.isTTY === true) {
    throw new CliError(`There is no value for ${names.join(", ")}.`, {
      next: "Name a variable with --from-env, or pipe the value in.",
    })
  }
  let text = ""
  for await (const chunk of stdin) text += String(chunk)
  const lines = text.split(/\r?\n/).filter((line) => line !== "")
  if (lines.length === names.length) return lines
  throw new CliError(
    `The standard input has ${lines.length} lines, and ${names.length} credentials have no value yet.`,
    { next: `Write one line for each of ${names.join(", ")}.` },
  )
}

function gather(value: string, before: string[]): string[] {
  return [...before, value]
}
