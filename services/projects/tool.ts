import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf"
import { z } from "zod"
import {
  Effect,
  RiskClass,
  type ToolDefinitionSchema,
} from "../../gen/runwarden/tools/v1/tool_pb.ts"
import type { Tx } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import type { Author } from "./project-actions.ts"

/** One tool: what is offered, and what runs inside a transaction when it is called. */
export interface Tool {
  readonly definition: MessageInitShape<typeof ToolDefinitionSchema> & {
    readonly name: string
    readonly version: string
  }
  readonly effect: "read" | "keyed"
  /** Checks the arguments (TOOL_ARGUMENTS_INVALID) and gives the work that they ask for. */
  prepare(args: JsonObject): (tx: Tx, author: Author) => Promise<JsonObject>
}

const effects = { read: Effect.READ, keyed: Effect.KEYED } as const
const risks = { low: RiskClass.LOW, medium: RiskClass.MEDIUM, high: RiskClass.HIGH } as const

/**
 * Makes a tool of its schemas: the JSON Schemas that are offered and the check of the arguments come
 * from the same source, so that neither can say what the other does not.
 */
export function defineTool<Input extends z.ZodObject, Output extends z.ZodObject>(tool: {
  readonly name: string
  readonly title: string
  readonly description: string
  readonly risk: keyof typeof risks
  readonly effect: keyof typeof effects
  readonly input: Input
  readonly output: Output
  run(tx: Tx, author: Author, args: z.infer<Input>): Promise<z.infer<Output>>
}): Tool {
  return {
    definition: {
      name: tool.name,
      version: "1.0.0",
      title: tool.title,
      description: tool.description,
      riskClass: risks[tool.risk],
      effect: effects[tool.effect],
      inputSchema: jsonSchema(tool.input, "input"),
      outputSchema: jsonSchema(tool.output, "output"),
    },
    effect: tool.effect,
    prepare(args) {
      const parsed = tool.input.safeParse(args)
      if (!parsed.success) throw invalidArguments(tool.name, parsed.error)
      return async (tx, author) => (await tool.run(tx, author, parsed.data)) as JsonObject
    },
  }
}

function jsonSchema(schema: z.ZodObject, io: "input" | "output"): JsonObject {
  return z.toJSONSchema(schema, { target: "draft-2020-12", io }) as JsonObject
}

function invalidArguments(name: string, error: z.ZodError): RunwardenError {
  const violations = error.issues.map((issue) => ({
    field: ["arguments", ...issue.path].join("/"),
    description: issue.message,
  }))
  return new RunwardenError(
    "TOOL_ARGUMENTS_INVALID",
    { field: violations[0]?.field ?? "arguments", tool: `projects/${name}` },
    { violations },
  )
}
