/**
 * What an MCP server's tool is as a definition. Pure.
 *
 * 1. Whatever a server says of itself proves nothing: its annotations are carried as they are, and
 *    every tool is HIGH and UNSAFE until the operator has said otherwise.
 * 2. MCP tools have no versions. One is made of everything that the server declared and the operator
 *    said, so that a definition that changes is another version, and none ever changes.
 */
import { create, type JsonObject } from "@bufbuild/protobuf"
import type { Tool as McpTool } from "@modelcontextprotocol/client"
import {
  Effect,
  RiskClass,
  type ToolDefinition,
  ToolDefinitionSchema,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { digestOf } from "../../../mesh/canonical.ts"
import { visibleText } from "../registry/definition.ts"

/** What the operator of the deployment says of a tool of a server. */
export interface ToolSetting {
  readonly riskClass?: RiskClass | undefined
  readonly effect?: Effect | undefined
}

/** Of SHA-256 in hexadecimal digits, as many as tell the definitions of one tool apart. */
const versionLength = 16

export function toDefinition(tool: McpTool, setting: ToolSetting | undefined): ToolDefinition {
  const { name, title, description, inputSchema, outputSchema, annotations } = tool
  const { riskClass = RiskClass.HIGH, effect = Effect.UNSAFE } = setting ?? {}
  const declared = { name, title, description, inputSchema, outputSchema, annotations }
  const version = digestOf(jsonOf({ declared, riskClass, effect })).slice(0, versionLength)
  return create(ToolDefinitionSchema, {
    name,
    version: `mcp-${version}`,
    title: visibleText(title ?? annotations?.title ?? ""),
    description: visibleText(description ?? ""),
    riskClass,
    effect,
    inputSchema: jsonOf(inputSchema),
    ...(outputSchema === undefined ? {} : { outputSchema: jsonOf(outputSchema) }),
    ...(annotations === undefined ? {} : { annotations: jsonOf(annotations) }),
  })
}

/** As JSON has it: without what is undefined. */
function jsonOf(value: object): JsonObject {
  return JSON.parse(JSON.stringify(value)) as JsonObject
}
