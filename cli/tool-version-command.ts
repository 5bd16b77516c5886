/** Which version of a tool a workspace uses, and what has changed in others. */
import type { Command } from "commander"
import {
  ActivateToolVersionResponseSchema,
  ListToolVersionsResponseSchema,
  RegistryService,
  RollBackToolResponseSchema,
} from "../gen/runwarden/tools/v1/registry_service_pb.ts"
import { EffectSchema, RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import {
  DefinitionChangeKind,
  DefinitionChangeKindSchema,
  type ToolActivation,
  type ToolVersion,
  ToolVersionSchema,
} from "../gen/runwarden/tools/v1/tool_version_pb.ts"
import { newId } from "../mesh/ids.ts"
import { askYesNo } from "./ask.ts"
import { type Cli, type Context, command } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { CliError } from "./failure.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf } from "./time-text.ts"

interface ActivateOptions {
  readonly yes?: boolean
}

export function toolVersionCommands(cli: Cli): readonly Command[] {
  return [
    command<PageOptions>(cli, "versions <name>", "list a tool's versions, newest first", {
      examples: ["tool versions git/git_push"],
      configure: addPageOptions,
      action: listVersions,
    }),
    command(cli, "diff <name> [version]", "show what differs from the version in use", {
      examples: ["tool diff git/git_push", "tool diff git/git_push mcp-4be1c6a6d1f0c9a2"],
      more: "\nWithout a version: the newest that is offered and not in use.",
      action: diff,
    }),
    command<ActivateOptions>(cli, "activate <name> [version]", "use a version from now on", {
      examples: [
        "tool activate git/git_push",
        "tool activate git/git_push mcp-4be1c6a6d1f0c9a2 --yes",
      ],
      more: `
Needs an admin. Shows what differs from the version in use, and asks. Runs that are under way keep
theirs. Without a version: the newest that is offered and not in use.`,
      configure: (made) => made.option("-y, --yes", "do not ask"),
      action: activate,
    }),
    command(cli, "rollback <name>", "undo the last activation", {
      examples: ["tool rollback git/git_push"],
      more: "\nNeeds an admin. Done twice, it undoes itself.",
      action: rollBack,
    }),
  ]
}

async function listVersions(
  context: Context,
  options: PageOptions,
  [name = ""]: string[],
): Promise<void> {
  const { registry, session, workspaceId } = await open(context)
  await printList(context, options, {
    async read(page) {
      const found = await registry.listToolVersions({ workspaceId, name, ...page }, session.options)
      return { items: found.versions, nextPageToken: found.nextPageToken }
    },
    schema: ListToolVersionsResponseSchema,
    toResponse: (versions, nextPageToken) => ({ versions, nextPageToken }),
    head: ["VERSION", "STATE", "CHANGE", "RISK", "EFFECT", "FIRST SEEN"],
    row: (version) => [
      version.tool?.definition?.version ?? "",
      stateOf(version),
      changeText(version),
      enumText(RiskClassSchema, version.tool?.definition?.riskClass ?? 0),
      enumText(EffectSchema, version.tool?.definition?.effect ?? 0),
      ageOf(version.tool?.createTime, context.io.now()),
    ],
    empty: "No versions.",
  })
}

async function diff(context: Context, _: object, [name = "", wanted]: string[]): Promise<void> {
  const version = await find(context, name, wanted)
  context.out.message(ToolVersionSchema, version, () => tell(context, version))
}

async function activate(
  context: Context,
  { yes }: ActivateOptions,
  [name = "", wanted]: string[],
): Promise<void> {
  const { out, io } = context
  const version = await find(context, name, wanted)
  const { tool } = version
  if (yes !== true) {
    if (io.stdin.isTTY !== true || io.stderr.isTTY !== true || out.isJson) {
      throw new CliError("There is no terminal to ask on, so nothing was activated.", {
        next: "Look at it with `tool diff`, and give --yes.",
      })
    }
    tell(context, version)
    if (!(await askYesNo(io, "Use it from now on? [y/N] "))) {
      throw new CliError("Nothing was activated.", { reason: "not_activated" })
    }
  }
  const { registry, session, workspaceId } = await open(context)
  const response = await registry.activateToolVersion(
    {
      workspaceId,
      requestId: newId(),
      name: tool?.fullName ?? "",
      version: tool?.definition?.version ?? "",
      definitionDigest: tool?.definitionDigest ?? "",
    },
    session.options,
  )
  out.message(ActivateToolVersionResponseSchema, response, () => {
    tellActivation(context, response.activation)
  })
}

async function rollBack(context: Context, _: object, [name = ""]: string[]): Promise<void> {
  const { registry, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), name }
  const response = await registry.rollBackTool(request, session.options)
  context.out.message(RollBackToolResponseSchema, response, () => {
    tellActivation(context, response.activation)
  })
}

/** A version by its name, or the newest that could be activated. */
async function find(
  context: Context,
  name: string,
  wanted: string | undefined,
): Promise<ToolVersion> {
  const { registry, session, workspaceId } = await open(context)
  let pageToken = ""
  do {
    const page = { workspaceId, name, pageSize: 100, pageToken }
    const { versions, nextPageToken } = await registry.listToolVersions(page, session.options)
    const found = versions.find(({ tool, offered }) =>
      wanted === undefined
        ? offered && tool?.active !== true
        : tool?.definition?.version === wanted,
    )
    if (found !== undefined) return found
    pageToken = nextPageToken
  } while (pageToken !== "")
  throw wanted === undefined
    ? new CliError(`The newest version of ${name} that is offered is in use.`, {
        next: "See them all with `tool versions`.",
      })
    : new CliError(`${name} has no version ${wanted}.`, { next: "See them with `tool versions`." })
}

function tell({ out }: Context, version: ToolVersion): void {
  const { tool, comparedWith, changes } = version
  out.details([
    ["tool", `${tool?.fullName}@${tool?.definition?.version}`],
    ["state", stateOf(version)],
    ["compared with", comparedWith],
    ["change", changeText(version)],
    ["risk", enumText(RiskClassSchema, tool?.definition?.riskClass ?? 0)],
    ["effect", enumText(EffectSchema, tool?.definition?.effect ?? 0)],
    ["description", tool?.definition?.description],
    ["digest", tool?.definitionDigest],
  ])
  for (const { kind, path, description } of changes) {
    const tone = kind === DefinitionChangeKind.COMPATIBLE ? "success" : "attention"
    out.marked(tone, `${path}: ${description}`)
  }
}

function tellActivation({ out }: Context, activation: ToolActivation | undefined): void {
  if (activation === undefined) return
  const { fullName, version, previousVersion } = activation
  if (out.isQuiet) {
    out.line(version)
    return
  }
  const before = previousVersion === "" ? "the deployment's version" : previousVersion
  const now = version === "" ? "the version that the deployment uses" : version
  out.marked("success", `New runs use ${now} of ${fullName}, before ${before}.`)
}

function stateOf({ tool, offered, reviewed }: ToolVersion): string {
  if (tool?.active === true) return "in use"
  if (!offered) return "withdrawn"
  return reviewed ? "offered" : "not reviewed"
}

function changeText({ changeKind }: ToolVersion): string {
  return changeKind === DefinitionChangeKind.UNSPECIFIED
    ? ""
    : enumText(DefinitionChangeKindSchema, changeKind)
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, registry: session.client(RegistryService) }
}
