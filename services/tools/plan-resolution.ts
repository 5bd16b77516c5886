/** What a plan is pinned to: the tool of each step, and that the arguments known so far fit it. */
import { create } from "@bufbuild/protobuf"
import {
  type PlannedStep,
  type ResolvePlanResponse,
  ResolvePlanResponseSchema,
} from "../../gen/runwarden/tools/v1/resolution_pb.ts"
import { metadataOf, RunwardenError, reasonOf, type Violation } from "../../mesh/errors.ts"
import type { FoundTool } from "./catalogue.ts"
import { argumentsInvalid, type PinnedTool, violationsOf } from "./pinned-tool.ts"
import type { Registry } from "./registry.ts"

/** Resolves every step. Throws for the first that cannot be pinned, else for faulty arguments. */
export async function resolvePlan(
  registry: Registry,
  steps: readonly PlannedStep[],
  signal: AbortSignal,
): Promise<ResolvePlanResponse> {
  const remembered = steps.map(({ tool, version }) => registry.known(tool, version))
  const found = remembered.every((one) => one !== undefined)
    ? remembered
    : await resolveAll(registry, steps, signal)
  requireLiterals(steps, found)
  return create(ResolvePlanResponseSchema, { tools: found.map(({ tool }) => tool.resolved) })
}

/** The tool that a name means. Throws UNKNOWN_TOOL where nobody offers it any more. */
export async function resolveOffered(
  registry: Registry,
  name: string,
  version: string,
  signal: AbortSignal,
): Promise<FoundTool> {
  const found = await registry.resolve(name, version, signal)
  // A plan is checked when it is stored: a version that nobody offers cannot be run any more.
  if (found?.row.offered === true) return found
  throw new RunwardenError("UNKNOWN_TOOL", { tool: version === "" ? name : `${name}@${version}` })
}

/** Waits for all, so that nothing floats, and throws what failed first in the order of the plan. */
async function resolveAll(
  registry: Registry,
  steps: readonly PlannedStep[],
  signal: AbortSignal,
): Promise<readonly FoundTool[]> {
  const settled = await Promise.allSettled(
    steps.map(({ tool, version }) => resolveOffered(registry, tool, version, signal)),
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

function requireLiterals(steps: readonly PlannedStep[], found: readonly FoundTool[]): void {
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
