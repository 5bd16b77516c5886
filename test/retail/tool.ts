import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import { z } from "zod"
import {
  Effect,
  RiskClass,
  type ToolDefinitionSchema,
} from "../../gen/runwarden/tools/v1/tool_pb.ts"
import type { Tx } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"

/**
 * How much a call may do.
 * `look`: nothing changes (READ, LOW).
 * `change`: what another call can change back (KEYED, MEDIUM).
 * `commit`: money moves, or is promised, or no other tool can undo it (KEYED, HIGH).
 */
export type Weight = "look" | "change" | "commit"

/** One tool: what is offered, and what runs inside a transaction when it is called. */
export interface Tool {
  readonly name: string
  readonly weight: Weight
  readonly definition: MessageInitShape<typeof ToolDefinitionSchema>
  /** Throws a ToolFailure before it has written anything. */
  run(tx: Tx, args: JsonObject): Promise<JsonObject>
}

/** The tool's own word that it cannot. */
export class ToolFailure extends Error {
  override readonly name = "ToolFailure"
  readonly reason: string

  constructor(reason: string, message: string) {
    super(message)
    this.reason = reason
  }
}

const version = "1.0.0"
const classes = {
  look: { riskClass: RiskClass.LOW, effect: Effect.READ },
  change: { riskClass: RiskClass.MEDIUM, effect: Effect.KEYED },
  commit: { riskClass: RiskClass.HIGH, effect: Effect.KEYED },
} as const

/** A repeat changes nothing, so a shop that is away for a while is worth waiting for. */
const retry = {
  maxAttempts: 100,
  initialBackoff: durationFromMs(100),
  maxBackoff: durationFromMs(1_000),
}

/** Makes a tool; what is offered and what is checked come from the same schemas. */
export function defineTool<Input extends z.ZodObject, Output extends z.ZodObject>(tool: {
  readonly name: string
  readonly title: string
  readonly description: string
  readonly weight: Weight
  readonly input: Input
  readonly output: Output
  run(tx: Tx, args: z.infer<Input>): Promise<z.infer<Output>>
}): Tool {
  const { name, weight, title, description } = tool
  return {
    name,
    weight,
    definition: {
      ...{ name, version, title, description, retry, ...classes[weight] },
      inputSchema: toSchema(tool.input),
      outputSchema: toSchema(tool.output),
    },
    async run(tx, args) {
      const parsed = tool.input.safeParse(args)
      if (!parsed.success) {
        const field = ["arguments", ...(parsed.error.issues[0]?.path ?? [])].join("/")
        throw new RunwardenError("TOOL_ARGUMENTS_INVALID", { field, tool: `retail/${name}` })
      }
      return (await tool.run(tx, parsed.data)) as JsonObject
    },
  }
}

export function findTool(tools: readonly Tool[], name: string, asked = version): Tool {
  const tool = tools.find((each) => each.name === name)
  if (tool !== undefined && asked === version) return tool
  throw new RunwardenError("UNKNOWN_TOOL", { field: "tool", tool: `${name}@${asked}` })
}

function toSchema(schema: z.ZodObject): JsonObject {
  return z.toJSONSchema(schema, { target: "draft-2020-12" }) as JsonObject
}
