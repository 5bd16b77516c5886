import { toJson } from "@bufbuild/protobuf"
import type { Command } from "commander"
import { RunEventSchema } from "../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { type RunState, RunStateSchema } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import {
  CancelRunResponseSchema,
  GetRunResponseSchema,
  ListRunsResponseSchema,
  ReleaseRunResponseSchema,
  RunService,
} from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { describeRun } from "../mesh/outcomes.ts"
import { shortened } from "../mesh/visible-text.ts"
import { addBulkOptions, type BulkOptions, cancelRuns } from "./bulk-cancel.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { enumsOption, enumValue } from "./enum-text.ts"
import { exitCodeHelp } from "./exit-code.ts"
import { CliError } from "./failure.ts"
import { addPageOptions, type PageOptions, printList, readPages } from "./paging.ts"
import { followRun } from "./run-follow.ts"
import { startCommand } from "./run-start.ts"
import { concludeRun, stateText, tellCalls, tellDenial, tellEvent, tellRun } from "./run-text.ts"
import { ageOf } from "./time-text.ts"

export function runCommands(cli: Cli): Command {
  return group("run", "start runs, and see how they go", [
    startCommand(cli),
    command<{ readonly etag?: string }>(cli, "get <run-id>", "show a run and its calls", {
      examples: ["run get 0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51", "run get <id> -o json"],
      action: (context, _, [runId = ""]) => getRun(context, readId(runId, "run")),
    }),
    command<PageOptions & { readonly state?: string[]; readonly thread?: string }>(
      cli,
      "list",
      "list runs, newest first",
      {
        examples: ["run list", "run list --state requires_action", "run list --limit 200 -o json"],
        configure: (made) =>
          addPageOptions(made)
            .addOption(enumsOption("--state <state>", "only runs in this state", RunStateSchema))
            .option("--thread <id>", "only runs of this thread"),
        action: listRuns,
      },
    ),
    command<{ readonly after: string }>(cli, "watch <run-id>", "follow a run until it has ended", {
      examples: ["run watch <id>", "run watch <id> -o json   # one event per line"],
      more: exitCodeHelp,
      configure: (made) => made.option("--after <sequence>", "only events after this one", "0"),
      action: watchRun,
    }),
    command<CancelOptions>(cli, "cancel [run-id]", "end a run, or many", {
      examples: ["run cancel <id>", "run cancel --all --state queued --plan import --dry-run"],
      more: "\nOnce it has answered, no further call of the run starts. --all needs an admin.",
      configure: (made) =>
        addBulkOptions(made).option("--etag <etag>", "only if the run is as it was read"),
      action: cancelRun,
    }),
    command(cli, "release <run-id>", "go on with a run that was set aside", {
      examples: ["run release <id>"],
      more: "\nA run is set aside when replicas crashed over it again and again.",
      action: releaseRun,
    }),
  ])
}

async function watchRun(
  context: Context,
  options: { readonly after: string },
  [id = ""]: string[],
): Promise<void> {
  const runId = readId(id, "run")
  if (!/^\d{1,18}$/.test(options.after)) {
    throw new CliError(`--after takes the number of an event, not "${options.after}".`)
  }
  const { out } = context
  const session = context.session()
  for await (const event of followRun(session, runId, BigInt(options.after))) {
    if (out.isJson) out.record(toJson(RunEventSchema, event))
    else tellEvent(out, event, true)
  }
  await concludeRun(context, runId)
}

async function getRun(context: Context, runId: string): Promise<void> {
  const { out } = context
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session.client(RunService).getRun({ workspaceId, runId }, session.options)
  if (out.isJson) return out.document(toJson(GetRunResponseSchema, response))
  const { run } = response
  if (run === undefined) throw new CliError("The run was not given back.")
  if (out.isQuiet) return out.line(runId)
  const calls = session.client(ToolCallService)
  const { items } = await readPages({ limit: 200 }, async (page) => {
    const found = await calls.listToolCalls({ workspaceId, runId, ...page }, session.options)
    return { items: found.toolCalls, nextPageToken: found.nextPageToken }
  })
  tellRun(out, run)
  tellDenial(out, run)
  out.line()
  tellCalls(out, items)
}

async function listRuns(
  context: Context,
  options: PageOptions & { readonly state?: string[]; readonly thread?: string },
): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const states = (options.state ?? []).map((one) => enumValue<RunState>(RunStateSchema, one))
  const filters = { workspaceId, states, threadId: options.thread ?? "" }
  await printList(context, options, {
    async read(page) {
      const runs = session.client(RunService)
      const found = await runs.listRuns({ ...filters, ...page }, session.options)
      return { items: found.runs, nextPageToken: found.nextPageToken }
    },
    schema: ListRunsResponseSchema,
    toResponse: (runs, nextPageToken) => ({ runs, nextPageToken }),
    head: ["RUN", "PLAN", "STATE", "STEP", "STARTED"],
    row: (run) => [
      run.runId,
      shortened(run.planName, 40),
      stateText(describeRun(run), run.reason),
      `${run.stepIndex}/${run.stepCount}`,
      ageOf(run.createTime, context.io.now()),
    ],
    empty:
      "No runs. Start one: npx runwarden run start --file examples/plans/set-up-project.yaml --wait",
  })
}

type CancelOptions = BulkOptions & { readonly etag?: string }

async function cancelRun(
  context: Context,
  options: CancelOptions,
  [id = ""]: string[],
): Promise<void> {
  const { out } = context
  if (options.all === true) {
    if (id !== "") throw new CliError("Give the id of one run, or --all, not both.")
    return cancelRuns(context, options)
  }
  const runId = readId(id, "run")
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const request = { workspaceId, requestId: newId(), runId, etag: options.etag ?? "" }
  const response = await session.client(RunService).cancelRun(request, session.options)
  out.message(CancelRunResponseSchema, response, () => {
    if (response.run === undefined) return
    if (out.isQuiet) return out.line(runId)
    const { tone, label, explanation } = describeRun(response.run)
    out.marked(tone, `run ${runId} is ${label}: ${explanation}`)
  })
}

async function releaseRun(context: Context, _: object, [id = ""]: string[]): Promise<void> {
  const { out } = context
  const runId = readId(id, "run")
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const request = { workspaceId, requestId: newId(), runId }
  const response = await session.client(RunService).releaseRun(request, session.options)
  out.message(ReleaseRunResponseSchema, response, () => {
    if (out.isQuiet) return out.line(runId)
    out.marked("progress", `run ${runId} goes on`)
    out.note(`Follow it with: npx runwarden run watch ${runId}`)
  })
}
