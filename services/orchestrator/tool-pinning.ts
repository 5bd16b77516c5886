/** What a run is pinned to: the tools of its steps, and that their literal arguments fit. */
import type { CallOptions, Client } from "@connectrpc/connect"
import { ConnectError } from "@connectrpc/connect"
import { BadRequestSchema } from "../../gen/google/rpc/error_details_pb.ts"
import type { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import type { Tool } from "../../gen/runwarden/tools/v1/tool_pb.ts"
import { metadataOf, RunwardenError, reasonOf, type Violation } from "../../mesh/errors.ts"
import { isLiteral, type PlanStep } from "./plan.ts"

type Tools = Client<typeof ExecutionService>

/** The tool of every step; each distinct name and version is asked for once. */
export async function resolveTools(
  tools: Tools,
  workspaceId: string,
  steps: readonly PlanStep[],
  options: CallOptions,
): Promise<readonly Tool[]> {
  const asked = new Map<string, Promise<Tool>>()
  const found = steps.map((step, index) => {
    const key = JSON.stringify([step.tool, step.version])
    const known = asked.get(key) ?? resolveTool(tools, workspaceId, step, index, options)
    asked.set(key, known)
    return known
  })
  return allOrFirst(found)
}

async function resolveTool(
  tools: Tools,
  workspaceId: string,
  { tool: name, version }: PlanStep,
  index: number,
  options: CallOptions,
): Promise<Tool> {
  try {
    const { tool } = await tools.resolveTool({ workspaceId, name, version }, options)
    if (tool?.definition !== undefined && tool.definitionDigest !== "") return tool
    throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "tools" })
  } catch (error) {
    const reason = reasonOf(error)
    if (reason !== "UNKNOWN_TOOL" && reason !== "AMBIGUOUS_TOOL") throw error
    const metadata = { ...metadataOf(error), field: `plan.steps[${index}].tool`, tool: name }
    throw new RunwardenError(reason, metadata, { cause: error })
  }
}

/** Arguments without references are final: a fault in them is known before anything is stored. */
export async function checkLiterals(
  tools: Tools,
  workspaceId: string,
  steps: readonly PlanStep[],
  resolved: readonly Tool[],
  options: CallOptions,
): Promise<void> {
  const checks = steps.map(async (step, index) => {
    if (!isLiteral(step.arguments)) return
    const { definitionDigest } = toolAt(resolved, index)
    try {
      await tools.validateArguments(
        { workspaceId, definitionDigest, arguments: step.arguments },
        options,
      )
    } catch (error) {
      throw placed(error, `plan.steps[${index}].`)
    }
  })
  await allOrFirst(checks)
}

/** The same refusal with its places counted from the request. */
function placed(error: unknown, prefix: string): unknown {
  if (reasonOf(error) !== "TOOL_ARGUMENTS_INVALID") return error
  const { field = "arguments", ...others } = metadataOf(error)
  return new RunwardenError(
    "TOOL_ARGUMENTS_INVALID",
    { ...others, field: `${prefix}${field}` },
    {
      cause: error,
      violations: violationsOf(error).map(({ field: place, description }) => ({
        field: `${prefix}${place}`,
        description,
      })),
    },
  )
}

export function toolAt(resolved: readonly Tool[], index: number): Tool {
  const tool = resolved[index]
  if (tool === undefined) throw new Error(`step ${index} has no tool`)
  return tool
}

function violationsOf(error: unknown): readonly Violation[] {
  if (error instanceof RunwardenError) return error.violations
  if (!(error instanceof ConnectError)) return []
  return error.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations)
}

/** Waits for all, so that nothing floats, and throws what failed first in the order of the plan. */
async function allOrFirst<T>(work: readonly Promise<T>[]): Promise<T[]> {
  const settled = await Promise.allSettled(work)
  return settled.map((one) => {
    if (one.status === "rejected") throw one.reason
    return one.value
  })
}
