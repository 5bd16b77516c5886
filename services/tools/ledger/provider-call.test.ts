/** What an error of a provider proves: that the call never left, never ran, or nothing at all. */
import { type AddressInfo, createServer } from "node:net"
import { Code, ConnectError, createClient } from "@connectrpc/connect"
import { type handleUnaryCall, Server, ServerCredentials, status } from "@grpc/grpc-js"
import { describe, expect, it } from "vitest"
import { ToolProviderService } from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { type Reason, RunwardenError, toConnectError } from "../../../mesh/errors.ts"
import { createGrpcTransport } from "../../../mesh/grpc-client.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { newId } from "../../../mesh/ids.ts"
import { testRuntime } from "../../../mesh/testing.ts"
import { someone } from "../tools-harness.ts"
import { answerOfError } from "./provider-call.ts"

describe("answerOfError", () => {
  const byReason: readonly [Reason, string][] = [
    ["UNKNOWN_TOOL", "refused"],
    ["UNAUTHENTICATED", "refused"],
    ["WORKSPACE_MISMATCH", "refused"],
    ["INVALID_REQUEST", "refused"],
    ["METHOD_NOT_FOUND", "refused"],
    ["LIMIT_EXCEEDED", "refused"],
    ["SHUTTING_DOWN", "unsent"],
    ["REQUEST_TOO_LARGE", "oversized"],
    ["DEPENDENCY_UNAVAILABLE", "lost"],
    ["DEADLINE_EXCEEDED", "lost"],
    ["CANCELLED", "lost"],
    ["INTERNAL", "lost"],
    ["ETAG_MISMATCH", "lost"],
  ]
  it.each(byReason)("takes %s for %s", (reason, kind) => {
    expect(answerOfError(toConnectError(new RunwardenError(reason))).kind).toBe(kind)
  })

  it("takes everything that is no status for lost", () => {
    for (const error of [new Error("x"), undefined, "x", new ConnectError("x", Code.DataLoss)]) {
      expect(answerOfError(error).kind).toBe("lost")
    }
  })

  it("does not believe a provider that talks like the channel", () => {
    const error = new RunwardenError(
      "DEPENDENCY_UNAVAILABLE",
      { dependency: "database" },
      { message: "No connection established. Last error: ECONNREFUSED" },
    )
    expect(answerOfError(toConnectError(error)).kind).toBe("lost")
  })

  it("knows a refused connection from a lost answer, over a real channel", async () => {
    expect(answerOfError(await failureAt("127.0.0.1:1", 3_000)).kind).toBe("unsent")
  })

  it("knows a call that found no connection in its time", async () => {
    // It takes connections and says nothing, so that none is ever ready.
    const silent = createServer()
    await new Promise<void>((resolve) => silent.listen(0, "127.0.0.1", resolve))
    const { port } = silent.address() as AddressInfo
    expect(answerOfError(await failureAt(`127.0.0.1:${port}`, 300)).kind).toBe("unsent")
    silent.close()
  })

  it("believes no provider that talks like the channel, whoever it has that from", async () => {
    const texts = [
      "No connection established. Last error: connect ECONNREFUSED",
      "Name resolution failed for target dns:backend",
      "Deadline exceeded after 1.0s,Waiting for LB pick",
      "Stream refused by server",
    ]
    for (const details of texts) {
      const server = new Server()
      const bytes = (message: Buffer) => message
      const { typeName, method } = ToolProviderService
      const path = `/${typeName}/${method.executeTool.name}`
      const answer: handleUnaryCall<Buffer, Buffer> = (_call, done) =>
        done({ code: status.UNAVAILABLE, details })
      server.register(path, answer, bytes, bytes, "unary")
      const { promise, resolve } = Promise.withResolvers<number>()
      server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (_, port) =>
        resolve(port),
      )
      const error = await failureAt(`127.0.0.1:${await promise}`, 3_000)
      expect([details, answerOfError(error).kind]).toEqual([details, "lost"])
      server.forceShutdown()
    }
  })

  it("says when to come back, and that a limit for a while is none for good", () => {
    const limit = { limit: "calls", maximum: "1" }
    const answer = (retryAfterMs?: number) =>
      answerOfError(
        toConnectError(
          new RunwardenError("LIMIT_EXCEEDED", limit, {
            ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
          }),
        ),
      )
    expect(answer()).toMatchObject({ kind: "refused" })
    expect(answer(1_250)).toMatchObject({ kind: "unsent", retryAfterMs: 1_250 })
    expect(answer(86_400_000)).toMatchObject({ retryAfterMs: 300_000 })
  })
})

async function failureAt(address: string, timeoutMs: number): Promise<unknown> {
  await using stack = new AsyncDisposableStack()
  const transport = stack.use(createGrpcTransport(address, testRuntime("tools"), "projects"))
  const subject = someone()
  return await createClient(ToolProviderService, transport)
    .executeTool(
      {
        ...{ workspaceId: subject.workspaceId, tool: "a", version: "1", idempotencyKey: "k" },
        ...{ runId: newId(), arguments: {} },
      },
      actingAs(subject, { timeoutMs }),
    )
    .catch((thrown: unknown) => thrown)
}
