import { create, fromJson, type JsonObject } from "@bufbuild/protobuf"
import {
  type ResolvedTool,
  ResolvedToolSchema,
} from "../../../gen/runwarden/tools/v1/resolution_pb.ts"
import {
  type RetryPolicy,
  type ToolDefinition,
  ToolDefinitionSchema,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { RunwardenError, type Violation } from "../../../mesh/errors.ts"
import type { Effect } from "../ledger/ledger.ts"
import { compileSchema, type SchemaCheck, type SchemaFault } from "../schema/checker.ts"
import { retryPolicyOf } from "./retry-policy.ts"
import type { RiskClass, ToolRow } from "./tool-store.ts"

/**
 * A version of a tool with everything that calls of it need, read and compiled once: a definition
 * that was taken never changes.
 */
export class PinnedTool {
  readonly provider: string
  readonly name: string
  readonly version: string
  readonly digest: string
  readonly riskClass: RiskClass
  readonly effect: Effect
  readonly fullName: string
  readonly definition: ToolDefinition
  readonly retry: RetryPolicy
  readonly resolved: ResolvedTool
  #arguments: SchemaCheck | undefined
  #result: SchemaCheck | undefined

  constructor(row: ToolRow) {
    this.provider = row.provider
    this.name = row.name
    this.version = row.version
    this.digest = row.digest
    this.riskClass = row.risk_class
    this.effect = row.effect
    this.fullName = fullNameOf(row)
    this.definition = fromJson(ToolDefinitionSchema, row.definition)
    this.retry = retryPolicyOf(this.definition)
    const { defaultTimeout, maxUsage } = this.definition
    this.resolved = create(ResolvedToolSchema, {
      fullName: this.fullName,
      version: row.version,
      definitionDigest: row.digest,
      riskClass: this.definition.riskClass,
      effect: this.definition.effect,
      retry: this.retry,
      ...(defaultTimeout === undefined ? {} : { defaultTimeout }),
      ...(maxUsage === undefined ? {} : { maxUsage }),
    })
  }

  /** Where the arguments break the input schema. */
  faultsOfArguments(args: JsonObject): readonly SchemaFault[] {
    this.#arguments ??= compileSchema(this.definition.inputSchema ?? {})
    return this.#arguments(args)
  }

  /** Where a result breaks the output schema first; undefined where it fits, or there is none. */
  faultOfResult(result: JsonObject): SchemaFault | undefined {
    const { outputSchema } = this.definition
    if (outputSchema === undefined) return undefined
    this.#result ??= compileSchema(outputSchema)
    return this.#result(result)[0]
  }
}

export function fullNameOf(row: Pick<ToolRow, "provider" | "name">): string {
  return `${row.provider}/${row.name}`
}

/** Throws TOOL_ARGUMENTS_INVALID, with a violation per place, unless the arguments fit the tool. */
export function requireValidArguments(tool: PinnedTool, args: JsonObject): void {
  const violations = violationsOf(tool, args)
  if (violations.length > 0) throw argumentsInvalid(tool, violations)
}

/** The places where the arguments do not fit the tool, after `prefix`. */
export function violationsOf(
  tool: PinnedTool,
  args: JsonObject,
  prefix = "",
): readonly Violation[] {
  return tool.faultsOfArguments(args).map(({ pointer, description }) => ({
    field: `${prefix}arguments${pointer}`,
    description,
  }))
}

/** The refusal of arguments with faults. */
export function argumentsInvalid(
  tool: PinnedTool,
  violations: readonly Violation[],
): RunwardenError {
  const field = violations[0]?.field ?? "arguments"
  return new RunwardenError(
    "TOOL_ARGUMENTS_INVALID",
    { tool: tool.fullName, field },
    { violations },
  )
}
