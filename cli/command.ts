/** How a command is described, and what its action is given. */
import { Command, InvalidArgumentError, Option } from "commander"
import { CliError } from "./failure.ts"
import type { Io } from "./io.ts"
import { type Format, Output } from "./output.ts"
import { Session } from "./session.ts"
import { findTarget, type RoleName, roleNames } from "./target.ts"

interface GlobalOptions {
  readonly output: Format
  readonly url?: string
  readonly key?: string
  readonly workspace?: string
  readonly as?: RoleName
  readonly quiet?: boolean
}

/** What an action works with. The mesh is looked for only when the action asks for it. */
export interface Context {
  readonly io: Io
  readonly out: Output
  session(): Session
  /** Makes the process end with this code; 0 unless called. */
  exitWith(code: number): void
}

/** The commands' link to the process around them. */
export interface Cli {
  readonly io: Io
  exitCode: number
  /** Where the last command expected the mesh, for its errors. */
  url: string
}

export type Action<Options> = (context: Context, options: Options, args: string[]) => Promise<void>

/** Adds the options that every command has. */
export function addGlobalOptions(program: Command): Command {
  return program
    .addOption(
      new Option("-o, --output <format>", "how to print the result")
        .choices(["table", "json"])
        .default("table"),
    )
    .option("--url <url>", "gateway to call (or RUNWARDEN_URL); the local mesh where absent")
    .option("--key <key>", "API key (or RUNWARDEN_API_KEY)")
    .option("--workspace <id>", "workspace (or RUNWARDEN_WORKSPACE); the key's own where absent")
    .addOption(
      new Option(
        "--as <role>",
        "demo member of the local mesh to act as; the least one who may do it where absent",
      ).choices(roleNames),
    )
    .option("-q, --quiet", "print ids and results only: no hints, no progress")
}

/** Describes one command; `examples` are lines without the `npx runwarden` before them. */
export function command<Options extends object = Record<string, never>>(
  cli: Cli,
  signature: string,
  description: string,
  details: {
    readonly examples: readonly string[]
    readonly more?: string
    readonly configure?: (command: Command) => Command
    readonly action: Action<Options>
  },
): Command {
  const made = new Command(signature.split(" ")[0])
  const rest = signature.split(" ").slice(1).join(" ")
  if (rest !== "") made.arguments(rest)
  made.description(description)
  details.configure?.(made)
  const examples = details.examples.map((example) => `  npx runwarden ${example}`).join("\n")
  made.addHelpText("after", `${details.more ?? ""}\nExamples:\n${examples}`)
  made.action(async (...given: unknown[]) => {
    const options = made.opts() as Options
    const args = given.slice(0, -2).flatMap((one) => (one === undefined ? [] : one)) as string[]
    await details.action(createContext(cli, made), options, args)
  })
  return made
}

/** A command that only holds others. */
export function group(name: string, description: string, commands: readonly Command[]): Command {
  const made = new Command(name).description(description)
  for (const one of commands) made.addCommand(one)
  return made
}

/** Reads a whole number within bounds. */
export function wholeNumber(least: number, most: number) {
  return (text: string): number => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= least && value <= most) return value
    throw new InvalidArgumentError(`It must be a whole number from ${least} to ${most}.`)
  }
}

/** Reads an id, so that a slip of the hand costs no call. */
export function readId(text: string, name: string): string {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text)) return text
  throw new CliError(`The ${name} must be a whole id (a UUID), not "${text}".`)
}

function createContext(cli: Cli, made: Command): Context {
  const options = made.optsWithGlobals() as GlobalOptions
  const out = new Output(cli.io, { format: options.output, isQuiet: options.quiet === true })
  let session: Session | undefined
  return {
    io: cli.io,
    out,
    session() {
      if (session !== undefined) return session
      const target = findTarget(options, cli.io)
      cli.url = target.url
      session = new Session(target, cli.io.signal)
      return session
    },
    exitWith(code) {
      cli.exitCode = code
    },
  }
}
