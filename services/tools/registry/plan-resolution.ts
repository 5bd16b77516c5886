/** What a plan is pinned to: the tool of each step, and that the arguments known so far fit it. */
import { create } from "@bufbuild/protobuf"
import {
  type PlannedStep,
  type ResolvePlanRequest,
  type ResolvePlanResponse,
  ResolvePlanResponseSchema,
} from "../../../gen/runwarden/tools/v1/resolution_pb.ts"
import { metadataOf, RunwardenError, reasonOf, type Violation } from "../../../mesh/errors.ts"
import type { Meaning, Meanings } from "./meanings.ts"
import { argumentsInvalid, type PinnedTool, violationsOf } from "./pinned-tool.ts"

/** Resolves every step. Throws for the first that cannot be pinned, else for faulty arguments. */
export async function resolvePlan(
  meanings: Meanings,
  { workspaceId, steps }: Pick<ResolvePlanRequest, "workspaceId" | "steps">,
  signal: AbortSignal,
): Promise<ResolvePlanResponse> {
  const remembered = steps.map(({ tool, version }) => meanings.known(workspaceId, tool, version))
  const found = remembered.every((one) => one?.mayRun === true)
    ? (remembered as readonly Meaning[])
    : await resolveAll(meanings, { workspaceId, steps }, signal)
  requireLiterals(steps, found)
  return create(ResolvePlanResponseSchema, { tools: found.map(({ tool }) => tool.resolved) })
}

/**
 * The tool that a name means in a workspace. Throws UNKNOWN_TOOL where nobody offers it any more, or
 * nobody there has looked at it.
 */
export async function resolveUsable(
  meanings: Meanings,
  workspaceId: string,
  { name, version }: { readonly name: string; readonly version: string },
  signal: AbortSignal,
): Promise<Meaning> {
  const found = await meanings.resolve(workspaceId, name, version, signal)
  // A plan is checked when it is stored: a version that nobody offers cannot be run any more.
  if (found?.mayRun === true) return found
  throw new RunwardenError("UNKNOWN_TOOL", { tool: version === "" ? name : `${name}@${version}` })
}

/** Waits for all, so that nothing floats, and throws what failed first in the order of the plan. */
async function resolveAll(
  meanings: Meanings,
  { workspaceId, steps }: Pick<ResolvePlanRequest, "workspaceId" | "steps">,
  signal: AbortSignal,
): Promise<readonly Meaning[]> {
  const settled = await Promise.allSettled(
    steps.map(({ tool, version }) =>
      resolveUsable(meanings, workspaceId, { name: tool, version }, signal),
    ),
  )
  return settled.map((one, index) => {
    if (one.status === "fulfilled") return one.value
    throw placed(one.reason, `steps[${index}].tool`)
  })
}

function placed(error: unknown, field: string): unknown {
  const reason = reasonOf(error)
  if (reason !== "UNKNOWN_TOOL" && reason !== "AMBIGUOUS_TOOL") return error
  return new RunwardenError(reason, { ...metadataOf(error), field }, { cause: error })
}

function requireLiterals(steps: readonly PlannedStep[], found: readonly Meaning[]): void {
  let faulty: PinnedTool | undefined
  const violations: Violation[] = []
  found.forEach(({ tool }, index) => {
    const args = steps[index]?.arguments
    if (args === undefined) return
    const own = violationsOf(tool, args, `steps[${index}].`)
    if (own.length > 0) faulty ??= tool
    violations.push(...own)
  })
  if (faulty !== undefined) throw argumentsInvalid(faulty, violations)
}
