import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf"
import { durationMs } from "@bufbuild/protobuf/wkt"
import type { Command } from "commander"
import { VerdictSchema } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { OrphanCauseSchema } from "../gen/runwarden/orchestrator/v1/orphan_pb.ts"
import {
  ListOrphansResponseSchema,
  OrphanService,
} from "../gen/runwarden/orchestrator/v1/orphan_service_pb.ts"
import {
  type ToolCall,
  type ToolCallState,
  ToolCallStateSchema,
} from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import {
  GetToolCallResponseSchema,
  ListToolCallsResponseSchema,
  type SettleToolCallRequestSchema,
  SettleToolCallResponseSchema,
  ToolCallService,
} from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { ExecutionStateSchema } from "../gen/runwarden/tools/v1/execution_pb.ts"
import { EffectSchema, RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { newId } from "../mesh/ids.ts"
import { describeToolCall } from "../mesh/outcomes.ts"
import { visibleJson } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { enumsOption, enumText, enumValue } from "./enum-text.ts"
import { CliError } from "./failure.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { stateText, tellDenial } from "./run-text.ts"
import { ageOf, spanText, timeText } from "./time-text.ts"

type ListOptions = PageOptions & {
  readonly run?: string
  readonly state?: readonly string[]
  readonly tool?: string
}

interface SettleOptions {
  readonly result?: string
  readonly notDone?: string
}

export function toolCallCommands(cli: Cli): Command {
  return group("tool-call", "see what runs did, and settle what is unknown", [
    command<ListOptions>(cli, "list", "list calls, newest first, or a run's in their order", {
      examples: [
        "tool-call list --run <run-id>",
        "tool-call list --state outcome_unknown",
        "tool-call list --tool projects/project.archive -o json",
      ],
      configure: (made) =>
        addPageOptions(made)
          .option("--run <id>", "only calls of this run")
          .addOption(enumsOption("--state <state>", "only in this state", ToolCallStateSchema))
          .option("--tool <name>", "only calls of this tool, by its full name"),
      action: listCalls,
    }),
    command(cli, "get <tool-call-id>", "show a call with its arguments and outcome", {
      examples: ["tool-call get <id>"],
      action: (context, _, [id = ""]) => getCall(context, readId(id, "tool call")),
    }),
    command<SettleOptions>(cli, "settle <tool-call-id>", "say what became of an unknown outcome", {
      examples: [
        `tool-call settle <id> --result '{"order_id": "4711"}'`,
        `tool-call settle <id> --not-done "the provider has no such order"`,
      ],
      more: "\nThe run that waits for it goes on. Needs an approver.",
      configure: (made) =>
        made
          .option("--result <json>", "it took effect, with this result (a JSON object)")
          .option("--not-done <why>", "it did not take effect"),
      action: (context, options, [id = ""]) => settle(context, options, readId(id, "tool call")),
    }),
    command<PageOptions>(cli, "orphans", "list calls that were sent and that no run knows of", {
      examples: ["tool-call orphans"],
      more:
        "\nThere are none unless a database was restored to an earlier time. Their effects may have" +
        "\nhappened; no run repeats them or takes them back. Needs an admin.",
      configure: addPageOptions,
      action: listOrphans,
    }),
  ])
}

async function listCalls(context: Context, options: ListOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const filters = {
    workspaceId,
    runId: options.run ?? "",
    states: (options.state ?? []).map((one) => enumValue<ToolCallState>(ToolCallStateSchema, one)),
    tool: options.tool ?? "",
  }
  await printList(context, options, {
    async read(page) {
      const calls = session.client(ToolCallService)
      const found = await calls.listToolCalls({ ...filters, ...page }, session.options)
      return { items: found.toolCalls, nextPageToken: found.nextPageToken }
    },
    schema: ListToolCallsResponseSchema,
    toResponse: (toolCalls, nextPageToken) => ({ toolCalls, nextPageToken }),
    head: ["TOOL CALL", "RUN", "STEP", "TOOL", "STATE", "CHANGED"],
    row: (call) => [
      call.toolCallId,
      call.runId,
      String(call.stepIndex),
      call.tool,
      stateText(describeToolCall(call), call.reason),
      ageOf(call.updateTime, context.io.now()),
    ],
    empty: "No calls.",
  })
}

async function listOrphans(context: Context, options: PageOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  await printList(context, options, {
    async read(page) {
      const orphans = session.client(OrphanService)
      const found = await orphans.listOrphans({ workspaceId, ...page }, session.options)
      return { items: found.orphans, nextPageToken: found.nextPageToken }
    },
    schema: ListOrphansResponseSchema,
    toResponse: (orphans, nextPageToken) => ({ orphans, nextPageToken }),
    head: ["RUN", "STEP", "TOOL", "KEY", "CAUSE", "STATE", "SENT"],
    row: (orphan) => [
      orphan.runId,
      String(orphan.stepIndex),
      orphan.tool,
      orphan.idempotencyKey,
      enumText(OrphanCauseSchema, orphan.cause),
      enumText(ExecutionStateSchema, orphan.state),
      ageOf(orphan.createTime, context.io.now()),
    ],
    empty: "No orphans: the runs know of every call that was sent.",
  })
}

async function getCall(context: Context, toolCallId: string): Promise<void> {
  const { out } = context
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(ToolCallService)
    .getToolCall({ workspaceId, toolCallId }, session.options)
  out.message(GetToolCallResponseSchema, response, () => tellCall(context, response.toolCall))
}

function tellCall({ out, io }: Context, call: ToolCall | undefined): void {
  if (call === undefined) return
  const outcome = describeToolCall(call)
  const now = io.now()
  out.details([
    ["tool call", call.toolCallId],
    ["run", call.runId],
    ["step", String(call.stepIndex)],
    ["title", call.title],
    ["tool", `${call.tool}@${call.toolVersion}`],
    [
      "risk",
      `${enumText(RiskClassSchema, call.riskClass)}, ${enumText(EffectSchema, call.effect)}`,
    ],
    ["state", stateText(outcome, call.reason)],
    ["", outcome.explanation],
    ["verdict", call.verdict === 0 ? "" : enumText(VerdictSchema, call.verdict)],
    ["policy", call.policyVersion],
    ["rules", call.matchedRules.join(", ")],
    ["approval", call.approvalId],
    ["attempts", String(call.attempts)],
    ["timeout", call.timeout === undefined ? "" : spanText(durationMs(call.timeout))],
    ["uses at most", maxUsageText(call)],
    ["from steps", call.provenance.join(", ")],
    ["key", call.idempotencyKey],
    ["digest", call.argumentsDigest],
    ["settled by", call.settlerId],
    ["planned", timeText(call.createTime, now)],
    ["executed", timeText(call.startTime, now)],
    ["ended", timeText(call.endTime, now)],
    ["trace", call.traceId],
  ])
  tellDenial(out, call)
  out.line()
  out.heading("Arguments")
  out.line(visibleJson(call.arguments ?? {}))
  if (call.outcome.case === "result") {
    out.line()
    out.heading("Result")
    out.line(visibleJson(call.outcome.value))
  } else if (call.outcome.case === "error") {
    const { reason, message, metadata } = call.outcome.value
    out.line()
    out.heading("Error")
    out.line(visibleJson({ reason, message, metadata }))
  }
  if (outcome.next !== undefined) out.note(outcome.next)
}

async function settle(context: Context, options: SettleOptions, toolCallId: string): Promise<void> {
  const { out } = context
  const outcome = readOutcome(options)
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const request = { workspaceId, requestId: newId(), toolCallId, outcome }
  const response = await session.client(ToolCallService).settleToolCall(request, session.options)
  out.message(SettleToolCallResponseSchema, response, () => {
    if (response.toolCall === undefined) return
    const { tone, label } = describeToolCall(response.toolCall)
    out.marked(tone, `call ${toolCallId} is settled: ${label}`)
    out.note(`The run goes on: npx runwarden run watch ${response.toolCall.runId}`)
  })
}

function readOutcome({
  result,
  notDone,
}: SettleOptions): NonNullable<MessageInitShape<typeof SettleToolCallRequestSchema>["outcome"]> {
  if ((result === undefined) === (notDone === undefined)) {
    throw new CliError("Say what became of the call: either --result or --not-done.")
  }
  if (notDone !== undefined) {
    return { case: "error", value: { reason: "NOT_DONE", message: notDone } }
  }
  return { case: "result", value: readObject(result ?? "") }
}

function readObject(text: string): JsonObject {
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === "object" && value !== null && !Array.isArray(value)) {
      return value as JsonObject
    }
  } catch {
    // The message below says what is needed.
  }
  throw new CliError(`--result takes a JSON object such as '{"id": "4711"}'.`)
}

function maxUsageText({ maxTokens, maxCostMicros }: ToolCall): string {
  if (maxTokens + maxCostMicros === 0n) return ""
  return `${maxTokens} tokens, cost ${Number(maxCostMicros) / 1e6}`
}
