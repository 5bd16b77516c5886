/** The whole command: its groups, and what happens when one of them fails. */
import { Command, CommanderError } from "commander"
import { alertCommands } from "./alert-command.ts"
import { approvalCommands } from "./approval-command.ts"
import { approvalRuleCommands } from "./approval-rule-command.ts"
import { budgetCommands } from "./budget-command.ts"
import { citationCommands } from "./citation-command.ts"
import { addGlobalOptions, type Cli } from "./command.ts"
import { decisionCommands } from "./decision-command.ts"
import { delegationCommands } from "./delegation-command.ts"
import { documentCommands } from "./document-command.ts"
import { exitCodeHelp, exitCodes } from "./exit-code.ts"
import { CliError, type Failure, toFailure } from "./failure.ts"
import type { Io } from "./io.ts"
import { keyCommands } from "./key-command.ts"
import { memberCommands } from "./member-command.ts"
import { metricsCommands } from "./metrics-command.ts"
import { Output } from "./output.ts"
import { policyCommands } from "./policy-command.ts"
import { projectCommands } from "./project-command.ts"
import { providerCommands } from "./provider-command.ts"
import { runCommands } from "./run-command.ts"
import { searchCommand } from "./search-command.ts"
import { threadCommands } from "./thread-command.ts"
import { toolCallCommands } from "./tool-call-command.ts"
import { toolCommands } from "./tool-command.ts"
import { workspaceCommands } from "./workspace-command.ts"

const about = `Drives a Runwarden mesh: start runs, watch them, answer what waits for a person, look at what happened.

Without --url and --key it finds the mesh that \`npm start\` runs from this checkout.`

/** Runs one command line, and returns its exit code. Never throws. */
export async function runCli(args: readonly string[], io: Io): Promise<number> {
  const cli: Cli = { io, exitCode: exitCodes.ok, url: io.env.RUNWARDEN_URL ?? "" }
  const program = createProgram(cli)
  try {
    await program.parseAsync([...args], { from: "user" })
    return cli.exitCode
  } catch (error) {
    return explain(error, args, { cli, program })
  }
}

function createProgram(cli: Cli): Command {
  const program = addGlobalOptions(new Command("runwarden").description(about))
  program.addHelpText("after", exitCodeHelp)
  for (const made of [
    runCommands(cli),
    threadCommands(cli),
    toolCallCommands(cli),
    approvalCommands(cli),
    approvalRuleCommands(cli),
    delegationCommands(cli),
    budgetCommands(cli),
    documentCommands(cli),
    searchCommand(cli),
    citationCommands(cli),
    projectCommands(cli),
    toolCommands(cli),
    providerCommands(cli),
    policyCommands(cli),
    decisionCommands(cli),
    metricsCommands(cli),
    alertCommands(cli),
    workspaceCommands(cli),
    memberCommands(cli),
    keyCommands(cli),
  ]) {
    program.addCommand(made)
  }
  adapt(program, cli)
  return program
}

/** Commander writes and ends the process by itself; here it does neither. */
function adapt(command: Command, cli: Cli): void {
  command
    .exitOverride()
    .configureHelp({ showGlobalOptions: true })
    .configureOutput({
      writeOut: (text) => void cli.io.stdout.write(text),
      writeErr: () => {},
      outputError: () => {},
    })
  for (const below of command.commands) adapt(below, cli)
}

function explain(
  error: unknown,
  args: readonly string[],
  { cli, program }: { readonly cli: Cli; readonly program: Command },
): number {
  const { io } = cli
  if (io.signal.aborted) return exitCodes.interrupted
  const out = new Output(io, { format: wantsJson(args) ? "json" : "table", isQuiet: false })
  if (error instanceof CommanderError) {
    if (error.exitCode === 0) return exitCodes.ok
    out.failure(usageFailure(error, commandPath(program, args)))
    return exitCodes.error
  }
  out.failure(toFailure(error, cli.url === "" ? "the mesh" : cli.url))
  return error instanceof CliError ? error.exitCode : exitCodes.error
}

/** The words of the command line that name a command: help exists for these and for no others. */
function commandPath(program: Command, args: readonly string[]): readonly string[] {
  const path: string[] = []
  let at = program
  for (const arg of args) {
    const below = at.commands.find((one) => one.name() === arg || one.aliases().includes(arg))
    if (below === undefined) continue
    path.push(arg)
    at = below
  }
  return path
}

function usageFailure(error: CommanderError, path: readonly string[]): Failure {
  const help = ["npx runwarden", ...path, "--help"].join(" ")
  const message =
    error.code === "commander.help"
      ? "This needs a command after it."
      : error.message.replace(/^error: /, "").replace(/\n/g, " ")
  return {
    message: message.charAt(0).toUpperCase() + message.slice(1),
    reason: "usage",
    next: `See \`${help}\`.`,
    fields: [],
    metadata: {},
  }
}

/** Read by hand, since the command line could not be. */
function wantsJson(args: readonly string[]): boolean {
  return args.some(
    (arg, index) =>
      arg === "-ojson" ||
      arg === "--output=json" ||
      ((arg === "-o" || arg === "--output") && args[index + 1] === "json"),
  )
}
