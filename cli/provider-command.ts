/** Who offers tools: those of the deployment, and those that the workspace adds for itself. */
import type { Command } from "commander"
import {
  type Provider,
  ProviderStateSchema,
  RefusalKindSchema,
} from "../gen/runwarden/tools/v1/provider_pb.ts"
import {
  CreateProviderResponseSchema,
  DeleteProviderResponseSchema,
  GetProviderResponseSchema,
  ListCredentialKeysResponseSchema,
  ListProvidersResponseSchema,
  ProviderService,
  RefreshProviderResponseSchema,
  UpdateProviderResponseSchema,
} from "../gen/runwarden/tools/v1/provider_service_pb.ts"
import { EffectSchema, RiskClassSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortened } from "../mesh/visible-text.ts"
import { askYesNo } from "./ask.ts"
import { type Cli, type Context, command, group } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { CliError } from "./failure.ts"
import {
  addCredentialOptions,
  addSettingOption,
  type CredentialOptions,
  credentialHelp,
  readConnection,
  readCredentials,
  readSettings,
  type SettingOptions,
  type WhereOptions,
} from "./provider-options.ts"
import { ageOf, timeText } from "./time-text.ts"

type AddOptions = WhereOptions & CredentialOptions & SettingOptions
type SetOptions = CredentialOptions & SettingOptions & { readonly removeCredential: string[] }

export function providerCommands(cli: Cli): Command {
  return group("provider", "who offers tools: MCP servers and services of your own", [
    command<AddOptions>(cli, "add <name>", "add a provider to the workspace", {
      examples: [
        "provider add orders --grpc orders.example.com:443 --credential x-api-key --from-env ORDERS_KEY",
        "provider add tickets --mcp-url https://mcp.example.com/mcp --tool ticket_get=low,read",
        "provider add files --mcp-command files",
      ],
      more: `
Needs an admin. Its tools are HIGH and UNSAFE until you say otherwise: each call waits for a person.
${credentialHelp}`,
      configure: (made) =>
        addSettingOption(
          addCredentialOptions(
            made
              .option("--grpc <host:port>", "a service with ToolProviderService")
              .option(
                "--plaintext",
                "without TLS, where the deployment allows that for the address",
              )
              .option("--mcp-url <url>", "an MCP server over Streamable HTTP")
              .option("--mcp-command <name>", "an MCP server that the deployment starts"),
          ),
        ),
      action: addProvider,
    }),
    command(cli, "list", "list the providers, and why a tool may be missing", {
      examples: ["provider list"],
      action: listProviders,
    }),
    command(cli, "show <name>", "show a provider", {
      examples: ["provider show orders"],
      action: showProvider,
    }),
    command<SetOptions>(cli, "set <name>", "change credentials, and what is said of tools", {
      examples: [
        "provider set orders --credential x-api-key --from-env ORDERS_KEY",
        "provider set orders --tool order.get=low,read",
        "provider set orders --remove-credential x-api-key",
      ],
      more: `
Needs an admin. What is said of a tool makes another version of it, which you then activate.
${credentialHelp}`,
      configure: (made) =>
        addSettingOption(addCredentialOptions(made)).option(
          "--remove-credential <name>",
          "take a credential away (repeatable)",
          gather,
          [],
        ),
      action: setProvider,
    }),
    command(cli, "refresh <name>", "ask it for its tools now", {
      examples: ["provider refresh orders"],
      more: "\nNeeds an admin.",
      action: refreshProvider,
    }),
    command<{ readonly yes?: boolean }>(cli, "remove <name>", "remove it, and its credentials", {
      examples: ["provider remove orders", "provider remove orders --yes"],
      more: `
Needs an admin. Calls of its tools that have not been sent fail; what was recorded stays.`,
      configure: (made) => made.option("-y, --yes", "do not ask"),
      action: removeProvider,
    }),
    command(cli, "keys", "show under which keys credentials are kept; for operators", {
      examples: ["provider keys --key <operator-key>"],
      more: "\nA key that is not the first may be taken away once nothing is kept under it.",
      action: listKeys,
    }),
  ])
}

export async function listProviders(context: Context): Promise<void> {
  const { out, io } = context
  const { providers, session, workspaceId } = await open(context)
  const response = await providers.listProviders({ workspaceId }, session.options)
  out.message(ListProvidersResponseSchema, response, () => {
    out.table(
      ["PROVIDER", "OF", "STATE", "TOOLS", "ASKED", "ERROR"],
      response.providers.map((provider) => [
        provider.name,
        provider.providerId === "" ? "deployment" : "workspace",
        enumText(ProviderStateSchema, provider.state),
        String(provider.toolCount),
        ageOf(provider.attemptTime, io.now()),
        shortened(provider.error, 80),
      ]),
      "No providers.",
    )
    for (const provider of response.providers) tellRefused(context, provider)
  })
}

async function addProvider(context: Context, options: AddOptions, [name = ""]: string[]) {
  const { out, io } = context
  const connection = readConnection(options)
  const toolSettings = readSettings(options)
  const credentials = await readCredentials(options, io)
  const { providers, session, workspaceId } = await open(context)
  const created = await providers.createProvider(
    { workspaceId, requestId: newId(), name, connection, credentials, toolSettings },
    session.options,
  )
  if (out.isJson) return out.message(CreateProviderResponseSchema, created, () => {})
  await refreshProvider(context, {}, [name])
}

async function showProvider(context: Context, _: object, [provider = ""]: string[]) {
  const { providers, session, workspaceId } = await open(context)
  const response = await providers.getProvider({ workspaceId, provider }, session.options)
  context.out.message(GetProviderResponseSchema, response, () => tell(context, response.provider))
}

async function setProvider(context: Context, options: SetOptions, [provider = ""]: string[]) {
  const { out, io } = context
  const setToolSettings = readSettings(options)
  const setCredentials = await readCredentials(options, io)
  const { removeCredential: removeCredentials } = options
  const isNothing = [...Object.keys(setToolSettings), ...setCredentials, ...removeCredentials]
  if (isNothing.length === 0) {
    throw new CliError("There is nothing to change.", {
      next: "Give --credential, --remove-credential or --tool.",
    })
  }
  const { providers, session, workspaceId } = await open(context)
  const request = { workspaceId, provider, setCredentials, removeCredentials, setToolSettings }
  const response = await providers.updateProvider(
    { ...request, requestId: newId() },
    session.options,
  )
  if (out.isJson) return out.message(UpdateProviderResponseSchema, response, () => {})
  await refreshProvider(context, {}, [provider])
}

async function refreshProvider(context: Context, _: object, [provider = ""]: string[]) {
  const { out } = context
  const { providers, session, workspaceId } = await open(context)
  const response = await providers.refreshProvider(
    { workspaceId, requestId: newId(), provider },
    session.options,
  )
  out.message(RefreshProviderResponseSchema, response, () => {
    tell(context, response.provider)
    for (const version of response.newVersions) out.marked("attention", `new: ${version}`)
    if (response.newVersions.length > 0) {
      out.note(
        "The first version of a tool is in use. Look at any other with `tool diff`, and use it by `tool activate`.",
      )
    }
  })
}

async function removeProvider(
  context: Context,
  { yes }: { readonly yes?: boolean },
  [provider = ""]: string[],
): Promise<void> {
  const { out, io } = context
  if (yes !== true) {
    if (io.stdin.isTTY !== true || io.stderr.isTTY !== true || out.isJson) {
      throw new CliError("There is no terminal to ask on, so nothing was removed.", {
        next: "Give --yes.",
      })
    }
    if (!(await askYesNo(io, `Remove ${provider} and its credentials for good? [y/N] `))) {
      throw new CliError("Nothing was removed.", { reason: "not_removed" })
    }
  }
  const { providers, session, workspaceId } = await open(context)
  const response = await providers.deleteProvider(
    { workspaceId, requestId: newId(), provider },
    session.options,
  )
  out.message(DeleteProviderResponseSchema, response, () => out.line(`${provider} is removed.`))
}

async function listKeys(context: Context): Promise<void> {
  const { out } = context
  const session = context.session()
  const response = await session.client(ProviderService).listCredentialKeys({}, session.options)
  out.message(ListCredentialKeysResponseSchema, response, () => {
    out.table(
      ["KEY", "CONFIGURED", "CREDENTIALS", ""],
      response.keys.map(({ keyId, configured, primary, credentialCount }) => [
        keyId,
        configured ? "yes" : "no",
        String(credentialCount),
        primary ? "new ones" : credentialCount === 0n ? "may be taken away" : "",
      ]),
      "There are no keys: set TOOLS_CREDENTIAL_KEYS.",
    )
  })
}

function tell(context: Context, provider: Provider | undefined): void {
  const { out, io } = context
  if (provider === undefined) return
  if (out.isQuiet) {
    out.line(provider.name)
    return
  }
  const settings = Object.entries(provider.toolSettings).map(
    ([tool, { riskClass, effect }]) =>
      `${tool}: ${enumText(RiskClassSchema, riskClass)}, ${enumText(EffectSchema, effect)}`,
  )
  const credentials = provider.credentials.map(
    ({ name, setTime }) => `${name} (set ${ageOf(setTime, io.now())})`,
  )
  out.details([
    ["provider", provider.name],
    ["of", provider.providerId === "" ? "the deployment" : "the workspace"],
    ["at", placeOf(provider)],
    ["state", enumText(ProviderStateSchema, provider.state)],
    ["error", provider.error],
    ["asked", ageOf(provider.attemptTime, io.now())],
    ["tools", String(provider.toolCount)],
    ["credentials", credentials.join("\n")],
    ["said of tools", settings.join("\n")],
    ["added", provider.createTime && timeText(provider.createTime, io.now())],
  ])
  tellRefused(context, provider)
}

function tellRefused({ out }: Context, { name, refusedTools }: Provider): void {
  for (const tool of refusedTools) {
    const kind = enumText(RefusalKindSchema, tool.kind)
    out.marked("attention", `${name}/${tool.name}@${tool.version} ${kind}: ${tool.message}`)
  }
}

function placeOf({ connection }: Provider): string {
  const kind = connection?.kind
  switch (kind?.case) {
    case "grpc":
      return `${kind.value.address}${kind.value.plaintext ? " (without TLS)" : ""}`
    case "mcpHttp":
      return kind.value.url
    case "mcpStdio":
      return `command ${kind.value.command}`
    default:
      return ""
  }
}

function gather(value: string, before: string[]): string[] {
  return [...before, value]
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, providers: session.client(ProviderService) }
}
