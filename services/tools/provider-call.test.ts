/** What an error of a provider proves: that the call never left, never ran, or nothing at all. */
import { Code, ConnectError, createClient } from "@connectrpc/connect"
import { describe, expect, it } from "vitest"
import { ToolProviderService } from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { type Reason, RunwardenError, toConnectError } from "../../mesh/errors.ts"
import { createGrpcTransport } from "../../mesh/grpc-client.ts"
import { actingAs } from "../../mesh/identity.ts"
import { testRuntime } from "../../mesh/testing.ts"
import { answerOfError } from "./provider-call.ts"
import { someone } from "./tools-harness.ts"

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
    const transport = createGrpcTransport("127.0.0.1:1", testRuntime("tools"), "projects")
    await using stack = new AsyncDisposableStack()
    stack.use(transport)
    const subject = someone()
    const request = { workspaceId: subject.workspaceId, tool: "a", version: "1" }
    const error: unknown = await createClient(ToolProviderService, transport)
      .executeTool(request, actingAs(subject, { timeoutMs: 3_000 }))
      .catch((thrown: unknown) => thrown)
    expect(answerOfError(error).kind).toBe("unsent")
  })
})
