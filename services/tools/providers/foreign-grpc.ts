/**
 * A workspace's gRPC service as a provider.
 *
 * 1. Nothing that it says of its own tools' risk counts: they are HIGH and UNSAFE until an admin has
 *    said otherwise. What was said is part of the version, after the service's own.
 * 2. Its calls bring a token for it alone, which no service of the mesh takes.
 */
import { create } from "@bufbuild/protobuf"
import { createClient } from "@connectrpc/connect"
import {
  Effect,
  RiskClass,
  type ToolDefinition,
  ToolDefinitionSchema,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import {
  ListToolsResponseSchema,
  ToolProviderService,
} from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { createForeignGrpcTransport, type ForeignGrpcOptions } from "../../../mesh/egress-grpc.ts"
import type { ToolSetting } from "../mcp/definition.ts"
import type { ProviderClient } from "../registry/registry.ts"

export interface ForeignGrpcProviderOptions extends Omit<ForeignGrpcOptions, "audience"> {
  readonly workspaceId: string
  readonly name: string
  readonly settings: ReadonlyMap<string, ToolSetting>
}

/** Whom the token of a workspace's provider names: no service, and no provider of the deployment. */
export function audienceOf(workspaceId: string, name: string): string {
  return `provider:${workspaceId.toLowerCase()}/${name}`
}

export function createForeignGrpcProvider(
  options: ForeignGrpcProviderOptions,
): ProviderClient & AsyncDisposable {
  const { workspaceId, name, settings } = options
  const transport = createForeignGrpcTransport({
    ...options,
    audience: audienceOf(workspaceId, name),
  })
  const client = createClient(ToolProviderService, transport)
  return {
    async listTools(request, callOptions) {
      const { tools } = await client.listTools(request, callOptions)
      return create(ListToolsResponseSchema, {
        tools: tools.map((tool) => asDeclared(tool, settings.get(tool.name))),
      })
    },
    executeTool: (request, callOptions) =>
      client.executeTool({ ...request, version: ownVersion(request.version ?? "") }, callOptions),
    getOutcome: (request, callOptions) => client.getOutcome(request, callOptions),
    [Symbol.asyncDispose]: () => transport[Symbol.asyncDispose](),
  }
}

function asDeclared(tool: ToolDefinition, setting: ToolSetting | undefined): ToolDefinition {
  const { riskClass = RiskClass.HIGH, effect = Effect.UNSAFE } = setting ?? {}
  const { retry } = tool
  return create(ToolDefinitionSchema, {
    ...tool,
    version: `${tool.version}+${riskNames[riskClass]}.${effectNames[effect]}`, // (1)
    riskClass,
    effect,
    // An unsafe call is never repeated, whatever the service would allow.
    ...(retry === undefined || effect !== Effect.UNSAFE
      ? {}
      : { retry: { ...retry, retryableReasons: [] } }),
  })
}

/** The version as the service knows it. */
function ownVersion(version: string): string {
  return version.replace(/\+[a-z]+\.[a-z]+$/, "")
}

const riskNames: Readonly<Record<RiskClass, string>> = {
  [RiskClass.UNSPECIFIED]: "high",
  [RiskClass.LOW]: "low",
  [RiskClass.MEDIUM]: "medium",
  [RiskClass.HIGH]: "high",
}
const effectNames: Readonly<Record<Effect, string>> = {
  [Effect.UNSPECIFIED]: "unsafe",
  [Effect.READ]: "read",
  [Effect.KEYED]: "keyed",
  [Effect.UNSAFE]: "unsafe",
}
