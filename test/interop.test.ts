// A plain gRPC client, as any language has one, against the gateway: no Connect on its side.
import { create, type DescMethod, fromBinary, type Message, toBinary } from "@bufbuild/protobuf"
import { anyUnpack } from "@bufbuild/protobuf/wkt"
import * as grpc from "@grpc/grpc-js"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { ErrorInfoSchema } from "../gen/google/rpc/error_details_pb.ts"
import { StatusSchema } from "../gen/google/rpc/status_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import {
  type GetRunResponse,
  RunService,
  type WatchRunResponse,
} from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { StartRunResponse } from "../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { newId } from "../mesh/ids.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"

let mesh: TestMesh
let workspace: TestWorkspace
let client: grpc.Client

beforeAll(async () => {
  mesh = await startTestMesh()
  workspace = await mesh.addWorkspace()
  client = new grpc.Client(new URL(mesh.url).host, grpc.credentials.createInsecure())
})
afterAll(async () => {
  client?.close()
  await mesh?.[Symbol.asyncDispose]()
})

function key(apiKey = workspace.member.apiKey): grpc.Metadata {
  const metadata = new grpc.Metadata()
  metadata.set("authorization", `Bearer ${apiKey}`)
  return metadata
}

function codec(method: DescMethod) {
  return {
    path: `/${method.parent.typeName}/${method.name}`,
    serialize: (message: Message) => Buffer.from(toBinary(method.input, message)),
    deserialize: (bytes: Buffer) => fromBinary(method.output, bytes),
  }
}

function unary<Response extends Message>(
  method: DescMethod,
  message: Record<string, unknown>,
  metadata = key(),
  options: grpc.CallOptions = {},
): Promise<Response> {
  const { path, serialize, deserialize } = codec(method)
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(
      path,
      serialize,
      deserialize,
      create(method.input, message),
      metadata,
      { deadline: Date.now() + 10_000, ...options },
      (error, response) => (error === null ? resolve(response as Response) : reject(error)),
    )
  })
}

const { startRun, getRun, watchRun } = RunService.method

function startRequest(): Record<string, unknown> {
  const steps = [{ tool: "project.list", arguments: {} }]
  return {
    workspaceId: workspace.workspaceId,
    requestId: newId(),
    plan: { name: "list", steps },
  }
}

describe("a plain grpc-js client", () => {
  test("starts a run and watches it to its end", async () => {
    const { run } = await unary<StartRunResponse>(startRun, startRequest())
    const { path, serialize, deserialize } = codec(watchRun)
    const stream = client.makeServerStreamRequest(
      path,
      serialize,
      deserialize,
      create(watchRun.input, { workspaceId: workspace.workspaceId, runId: run?.runId ?? "" }),
      key(),
    )
    const kinds: (string | undefined)[] = []
    for await (const message of stream) kinds.push((message as WatchRunResponse).event?.kind.case)
    expect(kinds[0]).toBe("runStarted")
    expect(kinds).toContain("toolCallStateChanged")
    const request = { workspaceId: workspace.workspaceId, runId: run?.runId }
    const found = await unary<GetRunResponse>(getRun, request)
    expect(found.run?.state).toBe(RunState.SUCCEEDED)
  })

  test("reads status, reason and metadata of an error", async () => {
    const runId = newId()
    const error = await unary(getRun, { workspaceId: workspace.workspaceId, runId }).catch(
      (caught: grpc.ServiceError) => caught,
    )
    if (!("metadata" in error)) throw new Error("it was found")
    expect(error.code).toBe(grpc.status.NOT_FOUND)
    const [bytes] = error.metadata.get("grpc-status-details-bin")
    if (!(bytes instanceof Buffer)) throw new Error("no details")
    const infos = fromBinary(StatusSchema, bytes).details.flatMap(
      (detail) => anyUnpack(detail, ErrorInfoSchema) ?? [],
    )
    expect(infos).toMatchObject([
      { reason: "NOT_FOUND", domain: "runwarden", metadata: { resource: "run", id: runId } },
    ])
  })

  test("is refused without a key, with the status and without a body being read", async () => {
    const error = await unary(startRun, startRequest(), new grpc.Metadata()).catch(
      (caught: grpc.ServiceError) => caught,
    )
    expect(error).toMatchObject({ code: grpc.status.UNAUTHENTICATED })
  })

  test("gets DEADLINE_EXCEEDED for a deadline that has passed", async () => {
    const error = await unary(getRun, startRequest(), key(), { deadline: Date.now() - 1 }).catch(
      (caught: grpc.ServiceError) => caught,
    )
    expect(error).toMatchObject({ code: grpc.status.DEADLINE_EXCEEDED })
  })

  test("gets UNIMPLEMENTED for a method that is internal, as for one that is not there", async () => {
    const codes = await Promise.all(
      [
        "/runwarden.tools.v1.ExecutionService/Execute",
        "/runwarden.tools.v1.ExecutionService/Explode",
      ].map(
        (path) =>
          new Promise<number | undefined>((resolve) => {
            client.makeUnaryRequest(
              path,
              () => Buffer.alloc(0),
              () => ({}),
              {},
              key(),
              { deadline: Date.now() + 5_000 },
              (error) => resolve(error?.code),
            )
          }),
      ),
    )
    expect(codes).toEqual([grpc.status.UNIMPLEMENTED, grpc.status.UNIMPLEMENTED])
  })
})
