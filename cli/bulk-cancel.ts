/** `run cancel --all`: counts the runs that fit, asks, and cancels them page by page. */
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { Command } from "commander"
import { BulkRunService } from "../gen/runwarden/orchestrator/v1/bulk_run_service_pb.ts"
import { RunState, RunStateSchema } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { newId } from "../mesh/ids.ts"
import { askYesNo } from "./ask.ts"
import { type Context, readId } from "./command.ts"
import { enumText, enumValue } from "./enum-text.ts"
import { CliError } from "./failure.ts"

export interface BulkOptions {
  readonly all?: boolean
  readonly state?: readonly string[]
  readonly thread?: string
  readonly requester?: string
  readonly plan?: string
  readonly startedAfter?: string
  readonly startedBefore?: string
  readonly dryRun?: boolean
  readonly yes?: boolean
}

const cancellable: readonly RunState[] = [
  RunState.QUEUED,
  RunState.RUNNING,
  RunState.REQUIRES_ACTION,
]
const pageSize = 200

export function addBulkOptions(command: Command): Command {
  const states = cancellable.map((state) => enumText(RunStateSchema, state))
  return command
    .option("--all", "end all live runs that fit the options below")
    .option(
      "--state <state>",
      `only runs in this state (${states.join(", ")}); may be given again`,
      (one: string, before: string[] = []) => [...before, one],
    )
    .option("--thread <id>", "only runs of this thread")
    .option("--requester <id>", "only runs of this member")
    .option("--plan <name>", "only runs of plans of this name")
    .option("--started-after <time>", "only runs stored at this time or later")
    .option("--started-before <time>", "only runs stored before this time")
    .option("--dry-run", "count them, and end none")
    .option("--yes", "do not ask")
}

export async function cancelRuns(context: Context, options: BulkOptions): Promise<void> {
  const { io, out } = context
  const session = context.session()
  const filter = { ...readFilter(options), workspaceId: await session.workspaceId() }
  const bulk = session.client(BulkRunService)
  const counting = { ...filter, requestId: newId(), dryRun: true }
  const { matchedCount } = await bulk.bulkCancelRuns(counting, session.options)
  if (options.dryRun === true || matchedCount === 0n) {
    return report(context, { matched: matchedCount, cancelled: 0 })
  }
  if (options.yes !== true) {
    if (!io.stdin.isTTY)
      throw new CliError(`${runsFit(matchedCount)}; --yes ends what fits unasked.`)
    if (!(await askYesNo(io, `End ${countText(matchedCount)}? [y/N] `))) {
      throw new CliError("Nothing was ended.")
    }
  }
  let cancelled = 0
  let pageToken = ""
  do {
    const request = { ...filter, requestId: newId(), pageSize, pageToken }
    const page = await bulk.bulkCancelRuns(request, session.options)
    cancelled += page.runIds.length
    if (out.isQuiet) for (const runId of page.runIds) out.line(runId)
    else if (!out.isJson)
      out.note(`${cancelled} of ${countText(matchedCount)} ${cancelled === 1 ? "is" : "are"} ended`)
    pageToken = page.nextPageToken
  } while (pageToken !== "")
  report(context, { matched: matchedCount, cancelled })
}

function report(
  { out }: Context,
  { matched, cancelled }: { readonly matched: bigint; readonly cancelled: number },
): void {
  if (out.isJson) out.document({ matchedCount: String(matched), cancelledCount: cancelled })
  else if (!out.isQuiet) out.line(`${runsFit(matched)}; ${endedText(cancelled)}`)
}

function runsFit(count: bigint): string {
  return `${countText(count)} ${count === 1n ? "fits" : "fit"}`
}

function countText(count: bigint): string {
  return count === 1n ? "1 run" : `${count} runs`
}

function endedText(cancelled: number): string {
  if (cancelled === 0) return "nothing was ended"
  return cancelled === 1 ? "1 was ended" : `${cancelled} were ended`
}

function readFilter(options: BulkOptions) {
  const { state = [], thread, requester, plan = "", startedAfter, startedBefore } = options
  return {
    states: state.map(readState),
    threadId: thread === undefined ? "" : readId(thread, "thread"),
    actorId: requester === undefined ? "" : readId(requester, "member"),
    planName: plan,
    ...(startedAfter === undefined
      ? {}
      : { startedAfter: readTime(startedAfter, "--started-after") }),
    ...(startedBefore === undefined
      ? {}
      : { startedBefore: readTime(startedBefore, "--started-before") }),
  }
}

function readState(name: string): RunState {
  const state = enumValue<RunState>(RunStateSchema, name)
  if (cancellable.includes(state)) return state
  const names = cancellable.map((one) => enumText(RunStateSchema, one)).join(", ")
  throw new CliError(`--state must be one of ${names}, not "${name}".`)
}

function readTime(text: string, name: string) {
  const time = new Date(text)
  if (!Number.isNaN(time.getTime())) return timestampFromDate(time)
  throw new CliError(`${name} must be a time such as 2026-03-01T14:00:00Z, not "${text}".`)
}
