import { durationMs } from "@bufbuild/protobuf/wkt"
import type { Command } from "commander"
import {
  GetToolResponseSchema,
  RegistryService,
  RegistryServiceListToolsResponseSchema,
} from "../gen/runwarden/tools/v1/registry_service_pb.ts"
import {
  EffectSchema,
  RiskClassSchema,
  type ToolDefinition,
} from "../gen/runwarden/tools/v1/tool_pb.ts"
import { shortened, visible, visibleJson } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { listProviders } from "./provider-command.ts"
import { spanText, timeText } from "./time-text.ts"
import { toolLockCommands } from "./tool-lock-command.ts"
import { toolVersionCommands } from "./tool-version-command.ts"

type ListOptions = PageOptions & { readonly provider?: string; readonly query?: string }

export function toolCommands(cli: Cli): Command {
  return group("tool", "what runs may do", [
    command<ListOptions>(cli, "list", "list the tools by name", {
      examples: ["tool list", "tool list --provider projects", "tool list --query archive"],
      configure: (made) =>
        addPageOptions(made)
          .option("--provider <name>", "only tools of this provider")
          .option("--query <text>", "only tools whose name, title or description says this"),
      action: listTools,
    }),
    command<{ readonly version?: string }>(cli, "get <name>", "show a tool with its schemas", {
      examples: ["tool get project.create", "tool get projects/project.create --version 1.0.0"],
      configure: (made) =>
        made.alias("show").option("--version <version>", "the one in use where absent"),
      action: (context, options, [name = ""]) => getTool(context, name, options.version ?? ""),
    }),
    ...toolVersionCommands(cli),
    ...toolLockCommands(cli),
    command(cli, "providers", "the same as `provider list`", {
      examples: ["tool providers"],
      action: listProviders,
    }),
  ])
}

async function listTools(context: Context, options: ListOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const { provider = "", query = "" } = options
  await printList(context, options, {
    async read(page) {
      const registry = session.client(RegistryService)
      const request = { workspaceId, provider, query, ...page }
      const found = await registry.listTools(request, session.options)
      return { items: found.tools, nextPageToken: found.nextPageToken }
    },
    schema: RegistryServiceListToolsResponseSchema,
    toResponse: (tools, nextPageToken) => ({ tools, nextPageToken }),
    head: ["TOOL", "VERSION", "RISK", "EFFECT", "TITLE"],
    row: ({ fullName, definition }) => [
      fullName,
      definition?.version ?? "",
      enumText(RiskClassSchema, definition?.riskClass ?? 0),
      enumText(EffectSchema, definition?.effect ?? 0),
      shortened(definition?.title ?? "", 60),
    ],
    empty: "No tools.",
  })
}

async function getTool(context: Context, name: string, version: string): Promise<void> {
  const { out, io } = context
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(RegistryService)
    .getTool({ workspaceId, name, version }, session.options)
  out.message(GetToolResponseSchema, response, () => {
    const { tool } = response
    const definition = tool?.definition
    if (tool === undefined || definition === undefined) return
    out.details([
      ["tool", `${tool.fullName}@${definition.version}`],
      ["title", definition.title],
      ["description", definition.description],
      ["risk", enumText(RiskClassSchema, definition.riskClass)],
      ["effect", enumText(EffectSchema, definition.effect)],
      ["timeout", timeoutText(definition)],
      ["uses at most", maxUsageText(definition)],
      ["in use", tool.active ? "yes" : "no"],
      ["digest", tool.definitionDigest],
      ["first seen", timeText(tool.createTime, io.now())],
    ])
    out.line()
    out.heading("Arguments (JSON Schema)")
    out.line(visibleJson(definition.inputSchema ?? {}))
    for (const change of definition.schemaChanges) out.line(`changed: ${visible(change)}`)
    if (definition.outputSchema !== undefined) {
      out.line()
      out.heading("Result (JSON Schema)")
      out.line(visibleJson(definition.outputSchema))
    }
  })
}

function timeoutText({ defaultTimeout }: ToolDefinition): string {
  return defaultTimeout === undefined ? "" : spanText(durationMs(defaultTimeout))
}

function maxUsageText({ maxUsage }: ToolDefinition): string {
  if (maxUsage === undefined) return ""
  const { inputTokens, outputTokens, costMicros } = maxUsage
  return `${inputTokens + outputTokens} tokens, cost ${Number(costMicros) / 1e6}`
}
