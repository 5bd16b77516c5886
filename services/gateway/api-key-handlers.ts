import { create } from "@bufbuild/protobuf"
import { timestampDate, timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { ServiceImpl } from "@connectrpc/connect"
import { type ApiKey, ApiKeySchema } from "../../gen/runwarden/gateway/v1/api_key_pb.ts"
import {
  ApiKeyService,
  CreateApiKeyResponseSchema,
  RevokeApiKeyResponseSchema,
} from "../../gen/runwarden/gateway/v1/api_key_service_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { newId } from "../../mesh/ids.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { mintKey } from "./api-key.ts"
import {
  type ApiKeyRow,
  holdMember,
  insertApiKey,
  listApiKeys,
  revokeApiKey,
} from "./api-key-store.ts"
import type { Authenticator } from "./authenticator.ts"
import { uuidCursor } from "./uuid-cursor.ts"

const pageSizes = { default: 50, max: 200 }

/** The handlers of ApiKeyService. */
export function apiKeyHandlers(deps: {
  readonly database: Database
  readonly authenticator: Authenticator
}): ServiceImpl<typeof ApiKeyService> {
  const { database, authenticator } = deps
  return {
    async createApiKey(request, { signal }) {
      const { workspaceId, actorId, displayName } = request
      const expireTime = request.expireTime && timestampDate(request.expireTime)
      const minted = mintKey()
      const { prefix, hash } = minted
      const work = async (tx: Tx) => {
        if (!(await holdMember(tx, workspaceId, actorId))) throw notFound("member", actorId)
        requireFuture(expireTime)
        const key = { keyId: newId(), actorId, displayName, prefix, hash, expireTime }
        const row = await insertApiKey(tx, workspaceId, key)
        const apiKey = toApiKey(workspaceId, row)
        return create(CreateApiKeyResponseSchema, { apiKey, secret: minted.secret })
      }
      const method = ApiKeyService.method.createApiKey
      return await answerOnce(database, method, request, work, { signal, keep: withoutSecret })
    },

    async listApiKeys(request, { signal }) {
      const { workspaceId } = request
      const filters = { list: "api-keys", workspaceId, actorId: request.actorId }
      const { limit, after } = readPage(request, filters, pageSizes)
      const filter = { actorId: request.actorId === "" ? undefined : request.actorId }
      const rows = await database.tenant(
        workspaceId,
        (tx) => listApiKeys(tx, workspaceId, filter, uuidCursor(after), limit + 1),
        { signal },
      )
      const page = rows.slice(0, limit)
      const last = rows.length > limit ? page.at(-1) : undefined
      return {
        apiKeys: page.map((row) => toApiKey(workspaceId, row)),
        nextPageToken: last === undefined ? "" : nextPage(filters, [last.keyId]),
      }
    },

    async revokeApiKey(request, { signal }) {
      const { workspaceId, keyId } = request
      const work = async (tx: Tx) => {
        const row = await revokeApiKey(tx, workspaceId, keyId)
        if (row === undefined) throw notFound("api_key", keyId)
        return create(RevokeApiKeyResponseSchema, { apiKey: toApiKey(workspaceId, row) })
      }
      const method = ApiKeyService.method.revokeApiKey
      // Whatever comes of it: a key may be revoked although its answer is lost.
      return await answerOnce(database, method, request, work, { signal }).finally(() =>
        authenticator.forget(workspaceId),
      )
    },
  }
}

/** What is kept of an answer that shows a secret. */
export function withoutSecret<T extends { readonly secret: string }>(answer: T): T {
  return { ...answer, secret: "" }
}

/** A key as the contract shows it. */
export function toApiKey(workspaceId: string, row: ApiKeyRow): ApiKey {
  const { keyId, actorId, displayName, prefix } = row
  return create(ApiKeySchema, {
    workspaceId,
    keyId,
    actorId,
    displayName,
    prefix,
    createTime: timestampFromDate(row.createTime),
    ...(row.expireTime === null ? {} : { expireTime: timestampFromDate(row.expireTime) }),
    ...(row.revokeTime === null ? {} : { revokeTime: timestampFromDate(row.revokeTime) }),
    ...(row.lastUseTime === null ? {} : { lastUseTime: timestampFromDate(row.lastUseTime) }),
  })
}

function requireFuture(expireTime: Date | undefined): void {
  if (expireTime === undefined || expireTime.getTime() > Date.now()) return
  const violations = [{ field: "expire_time", description: "must be in the future" }]
  throw new RunwardenError("INVALID_REQUEST", { field: "expire_time" }, { violations })
}
