import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { ServiceImpl } from "@connectrpc/connect"
import { type Thread, ThreadSchema } from "../../../gen/runwarden/orchestrator/v1/thread_pb.ts"
import type { ThreadService } from "../../../gen/runwarden/orchestrator/v1/thread_service_pb.ts"
import type { Database } from "../../../mesh/database.ts"
import { notFound } from "../../../mesh/errors.ts"
import { nextPage, readPage } from "../../../mesh/paging.ts"
import { findThread, listThreads, type ThreadRecord } from "./thread-store.ts"

const sizes = { default: 50, max: 200 }

/** ThreadService. */
export function threadHandlers({ database }: { readonly database: Database }) {
  return {
    async getThread({ workspaceId, threadId }, { signal }) {
      const read = { signal, name: "getThread", isOneRead: true }
      const thread = await database.tenant(
        workspaceId,
        (tx) => findThread(tx, workspaceId, threadId),
        read,
      )
      if (thread === undefined) throw notFound("thread", threadId)
      return { thread: toThread(thread) }
    },

    async listThreads(request, { signal }) {
      const { workspaceId, busyOnly: isBusyOnly } = request
      const filters = { list: "threads", workspaceId, isBusyOnly }
      const { limit, after } = readPage(request, filters, sizes)
      const rows = await database.tenant(
        workspaceId,
        (tx) => listThreads(tx, workspaceId, { isBusyOnly }, { limit: limit + 1, after }),
        { signal, name: "listThreads", isOneRead: true },
      )
      const page = rows.slice(0, limit)
      const last = page.at(-1)
      return {
        threads: page.map(toThread),
        nextPageToken:
          rows.length > limit && last !== undefined
            ? nextPage(filters, [last.used, last.threadId])
            : "",
      }
    },
  } satisfies ServiceImpl<typeof ThreadService>
}

function toThread({ line, ...thread }: ThreadRecord): Thread {
  const [currentRunId = "", ...queuedRunIds] = line
  return create(ThreadSchema, {
    workspaceId: thread.workspaceId,
    threadId: thread.threadId,
    ...{ currentRunId, queuedRunIds },
    runCount: BigInt(thread.runCount),
    createTime: timestampFromDate(thread.createTime),
    updateTime: timestampFromDate(thread.updateTime),
  })
}
