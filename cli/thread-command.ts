import type { Command } from "commander"
import type { Thread } from "../gen/runwarden/orchestrator/v1/thread_pb.ts"
import {
  GetThreadResponseSchema,
  ListThreadsResponseSchema,
  ThreadService,
} from "../gen/runwarden/orchestrator/v1/thread_service_pb.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { CliError } from "./failure.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf } from "./time-text.ts"

type ListOptions = PageOptions & { readonly busy?: boolean }

export function threadCommands(cli: Cli): Command {
  return group("thread", "conversations, whose runs go one after the other", [
    command(cli, "get <thread-id>", "show whose turn it is, and who waits", {
      examples: ["thread get <id>", "thread get <id> -o json"],
      action: (context, _, [threadId = ""]) => getThread(context, readId(threadId, "thread")),
    }),
    command<ListOptions>(cli, "list", "list threads, the last used first", {
      examples: ["thread list", "thread list --busy"],
      configure: (made) =>
        addPageOptions(made).option("--busy", "only threads with a run that has not ended"),
      action: listThreads,
    }),
  ])
}

async function getThread(context: Context, threadId: string): Promise<void> {
  const { out } = context
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const threads = session.client(ThreadService)
  const response = await threads.getThread({ workspaceId, threadId }, session.options)
  out.message(GetThreadResponseSchema, response, () => {
    const { thread } = response
    if (thread === undefined) throw new CliError("The thread was not given back.")
    if (out.isQuiet) return out.line(threadId)
    const { currentRunId, queuedRunIds, runCount } = thread
    out.line(`thread ${threadId}: ${runCount} runs`)
    out.line(currentRunId === "" ? "No run is under way." : `run ${currentRunId} has its turn`)
    for (const runId of queuedRunIds) out.line(`run ${runId} waits`)
  })
}

async function listThreads(context: Context, options: ListOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const busyOnly = options.busy === true
  await printList(context, options, {
    async read(page) {
      const threads = session.client(ThreadService)
      const found = await threads.listThreads({ workspaceId, busyOnly, ...page }, session.options)
      return { items: found.threads, nextPageToken: found.nextPageToken }
    },
    schema: ListThreadsResponseSchema,
    toResponse: (threads, nextPageToken) => ({ threads, nextPageToken }),
    head: ["THREAD", "RUNS", "TURN OF", "WAITING", "USED"],
    row: (thread: Thread) => [
      thread.threadId,
      String(thread.runCount),
      thread.currentRunId,
      String(thread.queuedRunIds.length),
      ageOf(thread.updateTime, context.io.now()),
    ],
    empty: "No threads: a run names its thread with --thread, or in its plan.",
  })
}
