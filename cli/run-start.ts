/** `run start`: from a plan file to a run, followed where that is asked for. */
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { Command } from "commander"
import type { Run } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import {
  GetRunResponseSchema,
  RunService,
} from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import {
  type BusyThreadPolicy,
  BusyThreadPolicySchema,
  StartRunResponseSchema,
} from "../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { metadataOf, reasonOf } from "../mesh/errors.ts"
import { newId } from "../mesh/ids.ts"
import { describeRun } from "../mesh/outcomes.ts"
import { type Cli, type Context, command, readId, wholeNumber } from "./command.ts"
import { enumOption, enumValue } from "./enum-text.ts"
import { exitCodeHelp } from "./exit-code.ts"
import { CliError, toFailure } from "./failure.ts"
import { type PlanFile, readPlan } from "./plan-file.ts"
import { readValues } from "./plan-values.ts"
import { followRun } from "./run-follow.ts"
import { concludeRun, tellEvent } from "./run-text.ts"
import { readTextFile } from "./text-file.ts"
import { readSeconds, timeText } from "./time-text.ts"

interface StartOptions {
  readonly file: string
  readonly wait?: boolean
  readonly set?: readonly string[]
  readonly input?: string
  readonly timeout?: string
  readonly at?: string
  readonly delay?: string
  readonly maxToolCalls?: number
  readonly maxWallTime?: string
  readonly maxTokens?: number
  readonly maxCostMicros?: number
  readonly maxSteps?: number
  readonly thread?: string
  readonly onBusyThread?: string
  readonly requestId?: string
}

export function startCommand(cli: Cli): Command {
  return command<StartOptions>(cli, "start", "start a run of a plan", {
    examples: [
      "run start --file examples/plans/set-up-project.yaml --wait",
      "run start --file examples/plans/file-note.yaml --set title=Hello --set text='# Hello'",
      "run start --file - --wait -o json < plan.json",
    ],
    more: exitCodeHelp,
    configure: (made) =>
      made
        .requiredOption("-f, --file <path>", "the plan, YAML or JSON; - reads it from stdin")
        .option("-w, --wait", "follow it until it has ended or needs a person")
        .option(
          "--set <name=value>",
          // biome-ignore lint/suspicious/noTemplateCurlyInString: this is what the plan says.
          "fill in ${name} in the plan's arguments; may be given again",
          (one: string, before: string[] = []) => [...before, one],
        )
        .option("--input <text>", "what is asked for, in words; moderated before the first step")
        .option("--timeout <length>", "time for the whole run, such as 1h; a day where absent")
        .option("--at <time>", "when it begins, such as 2026-03-01T14:00:00Z; at once where absent")
        .option("--delay <length>", "how long from now it begins, such as 15m")
        .option("--max-tool-calls <n>", "calls that it may make", wholeNumber(1, 2 ** 32 - 1))
        .option("--max-steps <n>", "steps of the plan that it may begin", wholeNumber(1, 200))
        .option("--max-tokens <n>", "tokens that it may use up", wholeNumber(1, 10 ** 12))
        .option("--max-cost-micros <n>", "what it may spend", wholeNumber(1, 10 ** 15))
        .option("--max-wall-time <length>", "how long after its start it may still begin a call")
        .option("--thread <id>", "the conversation that it belongs to, whose runs take turns")
        .addOption(
          enumOption(
            "--on-busy-thread <policy>",
            "what becomes of it while another run of the thread goes on; it waits where absent",
            BusyThreadPolicySchema,
          ),
        )
        .option("--request-id <uuid>", "makes the start repeatable; a new one where absent"),
    action: startRun,
  })
}

async function startRun(context: Context, options: StartOptions): Promise<void> {
  const { out } = context
  const name = options.file === "-" ? "on stdin" : options.file
  const file = readPlan(
    await readTextFile(context.io, "plan", options.file),
    name,
    readValues(options.set ?? []),
  )
  const seconds =
    options.timeout === undefined ? file.timeoutSeconds : readSeconds(options.timeout, "--timeout")
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const request = {
    workspaceId,
    requestId: options.requestId ?? newId(),
    threadId: options.thread === undefined ? file.threadId : readId(options.thread, "thread"),
    onBusyThread: enumValue<BusyThreadPolicy>(BusyThreadPolicySchema, options.onBusyThread ?? ""),
    plan: file.plan,
    input: options.input ?? file.input,
    ...(seconds === undefined ? {} : { timeout: { seconds: BigInt(seconds) } }),
    ...beginOf(options),
    ...budgetOf(options),
  }
  const runs = session.client(RunService)
  const response = await runs.startRun(request, session.options).catch((error: unknown) => {
    throw inFile(error, file, name, session.target.url)
  })
  const runId = response.run?.runId ?? ""
  if (options.wait !== true) {
    out.message(StartRunResponseSchema, response, () => {
      if (out.isQuiet) return out.line(runId)
      out.marked("progress", `run ${runId} is ${startedText(response.run, out.io.now())}`)
      out.note(`Follow it with: npx runwarden run watch ${runId}`)
    })
    return
  }
  out.line(out.isQuiet ? runId : `run ${runId}`)
  for await (const event of followRun(session, runId)) {
    if (!out.isQuiet) tellEvent(out, event, false)
    if (event.kind.case === "runStateChanged") {
      const { tone } = describeRun(event.kind.value)
      if (tone !== "progress") break
    }
  }
  out.message(GetRunResponseSchema, await concludeRun(context, runId), () => {})
}

function beginOf({ at, delay }: StartOptions) {
  const time = at === undefined ? undefined : new Date(at)
  if (time !== undefined && Number.isNaN(time.getTime())) {
    throw new CliError(`--at must be a time such as 2026-03-01T14:00:00Z, not "${at}".`)
  }
  return {
    ...(time === undefined ? {} : { startTime: timestampFromDate(time) }),
    ...(delay === undefined ? {} : { delay: { seconds: BigInt(readSeconds(delay, "--delay")) } }),
  }
}

function budgetOf(options: StartOptions) {
  const { maxToolCalls = 0, maxWallTime, maxTokens = 0, maxCostMicros = 0, maxSteps = 0 } = options
  const limits = [maxToolCalls, maxTokens, maxCostMicros, maxSteps]
  if (maxWallTime === undefined && limits.every((limit) => limit === 0)) return {}
  const seconds =
    maxWallTime === undefined ? undefined : readSeconds(maxWallTime, "--max-wall-time")
  const budget = {
    ...{
      maxToolCalls,
      maxSteps,
      maxTokens: BigInt(maxTokens),
      maxCostMicros: BigInt(maxCostMicros),
    },
    ...(seconds === undefined ? {} : { maxWallTime: { seconds: BigInt(seconds) } }),
  }
  return { budget }
}

/** What has become of a run that was just stored. */
function startedText(run: Run | undefined, now: Date): string {
  const begin = run?.startTime
  return begin === undefined ? "started" : `scheduled for ${timeText(begin, now)}`
}

/** What the mesh refuses about a plan, led back to the file's lines. */
function inFile(error: unknown, file: PlanFile, name: string, url: string): unknown {
  const failure = toFailure(error, url)
  const field = metadataOf(error).field ?? ""
  if (reasonOf(error) === undefined || failure.fields.length === 0) return error
  const fields = failure.fields.map((one) => {
    const line = file.lineOf(one.field)
    return line === undefined ? one : { ...one, field: `${name} ${line}, ${one.field}` }
  })
  return new CliError(failure.message, {
    ...failure,
    fields,
    metadata: { ...failure.metadata, field },
  })
}
