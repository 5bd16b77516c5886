/** Runwarden over gRPC, as one member of one workspace. */
import { randomUUID } from "node:crypto"
import { setTimeout as sleep } from "node:timers/promises"
import type { JsonObject } from "@bufbuild/protobuf"
import { Code, ConnectError, createClient, type Interceptor } from "@connectrpc/connect"
import { createGrpcTransport } from "@connectrpc/connect-node"
import { ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts"
import { WorkspaceService } from "../../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { type Approval, ApprovalState } from "../../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { Answer, ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { RunEvent } from "../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { RegistryService } from "../../gen/runwarden/tools/v1/registry_service_pb.ts"

const timeoutMs = 10_000
const maxReconnects = 30

/** What a member can do. Everything fails with a ConnectError. */
export async function connect(baseUrl: string, apiKey: string) {
  const authorize: Interceptor = (next) => (request) => {
    request.header.set("authorization", `Bearer ${apiKey}`)
    return next(request)
  }
  const transport = createGrpcTransport({ baseUrl, interceptors: [authorize] })
  const runs = createClient(RunService, transport)
  const approvals = createClient(ApprovalService, transport)
  const registry = createClient(RegistryService, transport)

  // An API key belongs to one workspace; the gateway tells which.
  const workspaces = createClient(WorkspaceService, transport)
  const { memberships } = await workspaces.listWorkspaces({}, { timeoutMs })
  const workspaceId = memberships[0]?.workspace?.workspaceId ?? ""

  return {
    async start(tool: string, args: JsonObject) {
      const plan = { name: tool, steps: [{ tool, arguments: args }] }
      // Sent again with the same id, the request would start no second run.
      const request = { workspaceId, requestId: randomUUID(), plan }
      return (await runs.startRun(request, { timeoutMs })).run
    },

    /** The history until the run has ended; goes on where a lost connection has stopped. */
    async *watch(runId: string): AsyncGenerator<RunEvent> {
      let afterSequence = 0n
      for (let failures = 0; ; ) {
        try {
          for await (const { event } of runs.watchRun({ workspaceId, runId, afterSequence })) {
            if (event === undefined) continue
            afterSequence = event.sequence
            failures = 0
            yield event
          }
          return
        } catch (error) {
          failures += 1
          if (!isLost(error) || failures > maxReconnects) throw error
          await sleep(1_000)
        }
      }
    },

    async get(runId: string) {
      return (await runs.getRun({ workspaceId, runId }, { timeoutMs })).run
    },

    /** What a run waits for, each with the exact call that would be made. */
    async pendingApprovals(runId: string) {
      const request = { workspaceId, runId, states: [ApprovalState.PENDING] }
      const listed = await approvals.listApprovals(request, { timeoutMs })
      const found = listed.approvals.map(({ approvalId }) =>
        approvals.getApproval({ workspaceId, approvalId }, { timeoutMs }),
      )
      return (await Promise.all(found)).flatMap(({ approval }) => approval ?? [])
    },

    async confirm({ approvalId, digest }: Approval) {
      const answer = Answer.APPROVE
      // If the call has changed since it was shown, the answer does not count.
      const request = { workspaceId, requestId: randomUUID(), approvalId, digest, answer }
      return (await approvals.decide(request, { timeoutMs })).approval
    },

    async *runs() {
      for (let pageToken = ""; ; ) {
        const page = await runs.listRuns({ workspaceId, pageToken }, { timeoutMs })
        yield* page.runs
        pageToken = page.nextPageToken
        if (pageToken === "") return
      }
    },

    async *tools() {
      for (let pageToken = ""; ; ) {
        const page = await registry.listTools({ workspaceId, pageToken }, { timeoutMs })
        yield* page.tools
        pageToken = page.nextPageToken
        if (pageToken === "") return
      }
    },
  }
}

/** An error that Runwarden has not sent is one of the connection, whatever its code. */
function isLost(error: unknown): boolean {
  const failure = ConnectError.from(error)
  const isAnswered = failure.findDetails(ErrorInfoSchema).length > 0
  return !isAnswered || failure.code === Code.Unavailable
}

export type Runwarden = Awaited<ReturnType<typeof connect>>
