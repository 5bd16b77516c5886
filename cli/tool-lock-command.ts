import { writeFileSync } from "node:fs"
import type { Command } from "commander"
import { RegistryService } from "../gen/runwarden/tools/v1/registry_service_pb.ts"
import { EffectSchema, RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { type Cli, type Context, command } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { exitCodes } from "./exit-code.ts"
import { CliError } from "./failure.ts"
import { readTextFile } from "./text-file.ts"
import { compareLock, type Drift, type LockedTool, readLock, writeLock } from "./tool-lock.ts"

interface LockOptions {
  readonly file: string
}

interface CheckOptions extends LockOptions {
  readonly allowNew?: boolean
}

const defaultFile = "runwarden-tools.lock.json"

export function toolLockCommands(cli: Cli): readonly Command[] {
  return [
    command<LockOptions>(cli, "lock", "write down which definitions are in use", {
      examples: ["tool lock", "tool lock --file -"],
      more: "\nKeep the file beside the code that uses the tools, and review its changes.",
      configure: (made) =>
        made.option("-f, --file <path>", "where to write; - for stdout", defaultFile),
      action: lock,
    }),
    command<CheckOptions>(cli, "check", "compare what is in use with the lock file", {
      examples: ["tool check", "tool check --allow-new -o json"],
      more: "\nEnds with 1 where a tool is changed, missing or not in the file: for use in CI.",
      configure: (made) =>
        made
          .option("-f, --file <path>", "the lock file; - for stdin", defaultFile)
          .option("--allow-new", "tools that are not in the file are no fault"),
      action: check,
    }),
  ]
}

async function lock(context: Context, { file }: LockOptions): Promise<void> {
  const tools = await toolsInUse(context)
  const text = writeLock(tools)
  if (file === "-") {
    context.io.stdout.write(text)
    return
  }
  writeFileSync(file, text)
  context.out.record({ file, tools: tools.length })
  context.out.marked("success", `${tools.length} tools are written down in ${file}.`)
}

async function check(context: Context, { file, allowNew }: CheckOptions): Promise<void> {
  const { out, io } = context
  const locked = parse(file, await readTextFile(io, "lock file", file))
  const drifts = compareLock(locked, await toolsInUse(context)).filter(
    ({ kind }) => kind !== "not_locked" || allowNew !== true,
  )
  out.record({ file, drifts })
  for (const drift of drifts) out.marked("failure", textOf(drift))
  if (drifts.length === 0) out.marked("success", `${locked.length} tools are as locked.`)
  else {
    out.note("Look at it with `tool diff`; write the file anew with `tool lock`.")
    context.exitWith(exitCodes.error)
  }
}

function parse(file: string, text: string): readonly LockedTool[] {
  try {
    return readLock(text)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    throw new CliError(`${file} is no lock file: ${why}`, { cause: error })
  }
}

function textOf({ name, kind, locked, found }: Drift): string {
  if (kind === "missing") return `${name}: version ${locked?.version} is locked, and none is in use`
  if (kind === "not_locked") return `${name}: version ${found?.version} is in use and not locked`
  return `${name}: version ${locked?.version} is locked, ${found?.version} is in use`
}

async function toolsInUse(context: Context): Promise<readonly LockedTool[]> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const registry = session.client(RegistryService)
  const tools: LockedTool[] = []
  let pageToken = ""
  do {
    const page = { workspaceId, pageSize: 200, pageToken }
    const found = await registry.listTools(page, session.options)
    for (const { fullName, definition, definitionDigest } of found.tools) {
      tools.push({
        name: fullName,
        version: definition?.version ?? "",
        digest: definitionDigest,
        riskClass: enumText(RiskClassSchema, definition?.riskClass ?? 0),
        effect: enumText(EffectSchema, definition?.effect ?? 0),
      })
    }
    pageToken = found.nextPageToken
  } while (pageToken !== "")
  return tools
}
