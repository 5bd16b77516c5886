/** Starts runs, follows and confirms them, over gRPC with an API key. */
import { createInterface } from "node:readline/promises"
import { parseArgs } from "node:util"
import type { DescEnum } from "@bufbuild/protobuf"
import {
  ApprovalState,
  ApprovalStateSchema,
} from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import type { RunEvent } from "../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunState, RunStateSchema } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallStateSchema } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { EffectSchema, RiskClassSchema } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { connect, type Runwarden } from "./client.ts"
import { describe } from "./failure.ts"

const maxListed = 200
const help = `usage: main.ts COMMAND

Starts runs, follows and confirms them, over gRPC with an API key.

  start TOOL [ARGUMENTS]  start a run of one call, with its arguments as JSON, and print its id
  watch RUN               follow a run until it has ended
  confirm [--yes] RUN     show what a run waits for, and let it happen; --yes does not ask
  runs                    list runs, newest first, at most ${maxListed}
  tools                   list what runs may do

environment:
  RUNWARDEN_API_KEY  whose key is used; required
  RUNWARDEN_URL      where the mesh is; http://127.0.0.1:7100 where it is not set

Ends with 0, with 1 for an error, and with 2 where a watched run did not succeed.`

const url = process.env.RUNWARDEN_URL || "http://127.0.0.1:7100"
try {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { help: { type: "boolean", short: "h" }, yes: { type: "boolean" } },
  })
  if (values.help) console.log(help)
  else process.exitCode = await run(positionals, values.yes === true)
} catch (error) {
  console.error(describe(error, url))
  process.exitCode = 1
}

async function run([command, ...args]: string[], isSure: boolean): Promise<number> {
  const runwarden = await connect(url, process.env.RUNWARDEN_API_KEY ?? "")
  const [first = "", second = "{}"] = args
  switch (command) {
    case "start":
      console.log((await runwarden.start(first, JSON.parse(second)))?.runId)
      return 0
    case "watch":
      return watch(runwarden, first)
    case "confirm":
      return confirm(runwarden, first, isSure)
    case "runs": {
      // Quoted: what others named must not act on the terminal.
      let count = 0
      for await (const { runId, state, planName } of runwarden.runs()) {
        console.log(runId, nameOf(RunStateSchema, state), JSON.stringify(planName))
        count += 1
        if (count === maxListed) break
      }
      return 0
    }
    case "tools":
      for await (const { fullName, definition } of runwarden.tools()) {
        const { riskClass = 0, effect = 0, title = "" } = definition ?? {}
        console.log(
          fullName,
          nameOf(RiskClassSchema, riskClass),
          nameOf(EffectSchema, effect),
          JSON.stringify(title),
        )
      }
      return 0
    default:
      throw new Error(`There is no command ${command}; --help shows those that there are.`)
  }
}

async function watch(runwarden: Runwarden, runId: string): Promise<number> {
  for await (const event of runwarden.watch(runId)) {
    const line = describeEvent(event, runId)
    if (line !== undefined) console.log(line.trimEnd())
  }
  const ended = await runwarden.get(runId)
  return ended?.state === RunState.SUCCEEDED ? 0 : 2
}

function describeEvent({ kind }: RunEvent, runId: string): string | undefined {
  switch (kind.case) {
    case "runStateChanged":
      return `run ${nameOf(RunStateSchema, kind.value.state)} ${kind.value.reason}`
    case "toolCallStateChanged": {
      const { stepIndex, tool, state, reason } = kind.value
      return `step ${stepIndex} ${tool} ${nameOf(ToolCallStateSchema, state)} ${reason}`
    }
    case "approvalStateChanged": {
      const { stepIndex, state } = kind.value
      const hint = state === ApprovalState.PENDING ? `(as an approver: confirm ${runId})` : ""
      return `approval of step ${stepIndex} ${nameOf(ApprovalStateSchema, state)} ${hint}`
    }
    default:
      return undefined
  }
}

function nameOf(schema: DescEnum, value: number): string {
  return schema.value[value]?.localName ?? String(value)
}

async function confirm(runwarden: Runwarden, runId: string, isSure: boolean): Promise<number> {
  const waiting = await runwarden.pendingApprovals(runId)
  if (waiting.length === 0) {
    console.error("The run waits for nobody's yes.")
    return 1
  }
  for (const approval of waiting) {
    // As it came: in it, what a screen would hide is written out.
    console.log(approval.preview)
    if (!isSure && !(await isYes("Let it happen? [y/N] "))) return 1
    const answered = await runwarden.confirm(approval)
    console.log(approval.tool, nameOf(ApprovalStateSchema, answered?.state ?? 0))
  }
  return 0
}

async function isYes(question: string): Promise<boolean> {
  const terminal = createInterface(process.stdin, process.stdout)
  try {
    return (await terminal.question(question)).trim().toLowerCase() === "y"
  } finally {
    terminal.close()
  }
}
