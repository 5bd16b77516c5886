/** What a run is pinned to: the tools of its steps, and that their literal arguments fit. */
import type { CallOptions, Client } from "@connectrpc/connect"
import { ConnectError } from "@connectrpc/connect"
import { BadRequestSchema } from "../../../gen/google/rpc/error_details_pb.ts"
import type { ExecutionService } from "../../../gen/runwarden/tools/v1/execution_service_pb.ts"
import type { ResolvedTool } from "../../../gen/runwarden/tools/v1/resolution_pb.ts"
import { metadataOf, RunwardenError, reasonOf, type Violation } from "../../../mesh/errors.ts"
import { isLiteral, type PlanStep } from "./plan.ts"

/**
 * The tool of every step, in their order. Arguments without references are final, so that a fault in
 * them is known before anything is stored.
 */
export async function pinTools(
  tools: Client<typeof ExecutionService>,
  workspaceId: string,
  steps: readonly PlanStep[],
  options: CallOptions,
): Promise<readonly ResolvedTool[]> {
  const planned = steps.map(({ tool, version, arguments: args }) =>
    isLiteral(args) ? { tool, version, arguments: args } : { tool, version },
  )
  const resolved = await tools
    .resolvePlan({ workspaceId, steps: planned }, options)
    .then((response) => response.tools)
    .catch((error: unknown) => {
      throw placed(error)
    })
  if (resolved.length === steps.length && resolved.every(isWhole)) return resolved
  throw new RunwardenError("DEPENDENCY_UNAVAILABLE", { dependency: "tools" })
}

function isWhole({ fullName, version, definitionDigest }: ResolvedTool): boolean {
  return fullName !== "" && version !== "" && definitionDigest !== ""
}

const refusals: ReadonlySet<string | undefined> = new Set([
  "UNKNOWN_TOOL",
  "AMBIGUOUS_TOOL",
  "TOOL_ARGUMENTS_INVALID",
])

/** The same refusal with its places counted from the request. */
function placed(error: unknown): unknown {
  const reason = reasonOf(error)
  if (reason === undefined || !refusals.has(reason)) return error
  const { field = "steps", ...others } = metadataOf(error)
  return new RunwardenError(
    reason,
    { ...others, field: `plan.${field}` },
    {
      cause: error,
      violations: violationsOf(error).map(({ field: place, description }) => ({
        field: `plan.${place}`,
        description,
      })),
    },
  )
}

function violationsOf(error: unknown): readonly Violation[] {
  if (error instanceof RunwardenError) return error.violations
  if (!(error instanceof ConnectError)) return []
  return error.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) => fieldViolations)
}
