import { timestampDate, timestampFromMs } from "@bufbuild/protobuf/wkt"
import type { Command } from "commander"
import type { ApiKey } from "../gen/runwarden/gateway/v1/api_key_pb.ts"
import {
  ApiKeyService,
  CreateApiKeyResponseSchema,
  ListApiKeysResponseSchema,
  RevokeApiKeyResponseSchema,
} from "../gen/runwarden/gateway/v1/api_key_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf, readSeconds, timeText } from "./time-text.ts"

interface CreateOptions {
  readonly name: string
  readonly expires?: string
}

type ListOptions = PageOptions & { readonly actor?: string }

export function keyCommands(cli: Cli): Command {
  return group("key", "the API keys of members; for admins", [
    command<CreateOptions>(cli, "create <actor-id>", "make a key; its secret is shown once", {
      examples: ["key create <actor-id> --name laptop --expires 90d", "key create <actor-id> -q"],
      more: "\nWith --quiet only the secret is printed.",
      configure: (made) =>
        made
          .option("--name <name>", "name for people", "made by the command line")
          .option("--expires <length>", "after this time, such as 90d; never where absent"),
      action: createKey,
    }),
    command<ListOptions>(cli, "list", "list keys, revoked and expired ones too", {
      examples: ["key list", "key list --actor <actor-id>"],
      configure: (made) => addPageOptions(made).option("--actor <id>", "only keys of this actor"),
      action: listKeys,
    }),
    command(cli, "revoke <key-id>", "end a key for good", {
      examples: ["key revoke <key-id>"],
      action: revokeKey,
    }),
  ])
}

async function createKey(context: Context, options: CreateOptions, [id = ""]: string[]) {
  const { out, io } = context
  const actorId = readId(id, "actor")
  const seconds =
    options.expires === undefined ? undefined : readSeconds(options.expires, "--expires")
  const { keys, session, workspaceId } = await open(context)
  const response = await keys.createApiKey(
    {
      workspaceId,
      requestId: newId(),
      actorId,
      displayName: options.name,
      ...(seconds === undefined
        ? {}
        : { expireTime: timestampFromMs(io.now().getTime() + seconds * 1000) }),
    },
    session.options,
  )
  out.message(CreateApiKeyResponseSchema, response, () => {
    if (out.isQuiet) return out.line(response.secret)
    tell(context, response.apiKey)
    out.line(`\n${response.secret}\n`)
    out.note("This is the only time that the key is shown: only its hash is stored.")
  })
}

async function listKeys(context: Context, options: ListOptions): Promise<void> {
  const { keys, session, workspaceId } = await open(context)
  const now = context.io.now()
  await printList(context, options, {
    async read(page) {
      const request = { workspaceId, actorId: options.actor ?? "", ...page }
      const found = await keys.listApiKeys(request, session.options)
      return { items: found.apiKeys, nextPageToken: found.nextPageToken }
    },
    schema: ListApiKeysResponseSchema,
    toResponse: (apiKeys, nextPageToken) => ({ apiKeys, nextPageToken }),
    head: ["KEY", "PREFIX", "ACTOR", "NAME", "STATE", "LAST USED"],
    row: (key) => [
      key.keyId,
      key.prefix,
      key.actorId,
      shortened(key.displayName, 40),
      stateOf(key, now),
      ageOf(key.lastUseTime, now),
    ],
    empty: "No keys.",
  })
}

async function revokeKey(context: Context, _: object, [id = ""]: string[]): Promise<void> {
  const { out } = context
  const keyId = readId(id, "key")
  const { keys, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), keyId }
  const response = await keys.revokeApiKey(request, session.options)
  out.message(RevokeApiKeyResponseSchema, response, () => {
    if (out.isQuiet) return out.line(keyId)
    out.marked("success", `key ${keyId} is revoked; every replica refuses it within 5 s`)
  })
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, keys: session.client(ApiKeyService) }
}

function tell({ out, io }: Context, key: ApiKey | undefined): void {
  if (key === undefined) return
  out.details([
    ["key", key.keyId],
    ["actor", key.actorId],
    ["name", key.displayName],
    ["created", timeText(key.createTime, io.now())],
    ["expires", timeText(key.expireTime, io.now())],
  ])
}

function stateOf(key: ApiKey, now: Date): string {
  if (key.revokeTime !== undefined) return "revoked"
  if (key.expireTime === undefined) return "valid"
  return timestampDate(key.expireTime) <= now ? "expired" : `valid, ${ageOf(key.expireTime, now)}`
}
