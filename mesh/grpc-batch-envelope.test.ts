// What a server makes of batches as no client of ours sends them.
import { toBinary } from "@bufbuild/protobuf"
import {
  Client,
  type ClientReadableStream,
  credentials,
  Metadata,
  type StatusObject,
} from "@grpc/grpc-js"
import { describe, expect, test } from "vitest"
import { ExecuteRequestSchema } from "../gen/runwarden/tools/v1/execute_pb.ts"
import { ExecutionService } from "../gen/runwarden/tools/v1/execution_service_pb.ts"
import { type BatchResult, decodeBatchResponse, encodeBatchRequest } from "./batch-wire.ts"
import { reasonOf } from "./errors.ts"
import {
  digest,
  memberOf as member,
  requestOf,
  useExecuteTarget,
} from "./fixtures/execute-target.ts"
import { fromStatus, fromStatusBytes } from "./grpc-metadata.ts"
import { callerOf, identityHeader, type Subject, serviceSubject } from "./identity.ts"
import { newId } from "./ids.ts"
import { testRuntime, until } from "./testing.ts"

const target = useExecuteTarget()
const path = `/${ExecutionService.typeName}/BatchExecute`
const hang = () => new Promise<never>(() => undefined)
const keep = (bytes: Buffer) => bytes
const isReason = (reason: string) => (error: unknown) => reasonOf(error) === reason

describe("an envelope that no client of ours sends", () => {
  const orchestrator = testRuntime("orchestrator")
  const sign = (subject: Subject, as = orchestrator) => as.signer.sign(subject, "tools")

  /** Sends the bytes, and reads what comes back. */
  async function open(bytes: Buffer, as = orchestrator) {
    const address = `127.0.0.1:${await target.start()}`
    const channel = new Client(address, credentials.createInsecure())
    target.stack.defer(() => channel.close())
    const metadata = new Metadata()
    metadata.set(identityHeader, await sign(serviceSubject(as.name, ""), as))
    return (request = bytes) => {
      const call = channel.makeServerStreamRequest(path, keep, keep, request, metadata)
      return { call, ended: read(call) }
    }
  }

  async function read(call: ClientReadableStream<Buffer>) {
    const results: BatchResult[] = []
    let failed: unknown
    call.on("data", (bytes: Buffer) => results.push(...decodeBatchResponse(bytes)))
    call.on("error", (error) => {
      failed = error
    })
    await new Promise((resolve) => call.on("end", resolve))
    results.sort((one, other) => one.item - other.item)
    const reasons = results.map(({ error }) =>
      error === undefined ? "answered" : reasonOf(fromStatusBytes(error)),
    )
    return failed === undefined ? reasons : reasonOf(fromStatus(failed as StatusObject))
  }

  const send = async (bytes: Buffer, as = orchestrator) => (await open(bytes, as))().ended

  const itemOf = (workspaceId: string, identity: number) => ({
    ...{ identity, timeoutMs: 0, traceParent: "" },
    request: toBinary(ExecuteRequestSchema, requestOf(workspaceId)),
  })

  test("has its forged, foreign, spent and missing identities refused, and nothing else", async () => {
    const ours = newId()
    const token = await sign(member(ours))
    const half = token.slice(0, -8)
    const forOthers = await orchestrator.signer.sign(member(ours), "moderation")
    // A good token of another service: not the one that sends this.
    const stolen = await sign(member(ours), testRuntime("gateway"))
    const identities = [token, "nonsense", half, forOthers, stolen]
    const items = [0, 1, 2, 3, 4, 5, 63].map((identity) => itemOf(ours, identity))
    expect(await send(encodeBatchRequest({ identities, items }))).toEqual([
      "answered",
      ...Array(6).fill("UNAUTHENTICATED"),
    ])
    expect(target.seen).toHaveLength(1)
  })

  test("spends an identity that names a call on one item, in one batch", async () => {
    const ours = newId()
    const bound = (stepIndex: number) => ({
      ...member(ours),
      call: { runId: ours, stepIndex, digest },
    })
    const one = await sign(bound(0))
    const several = await orchestrator.signer.signCalls([bound(1), bound(2)], "tools")
    const items = [0, 0, 1, 2, 1, 3].map((identity) => itemOf(ours, identity))
    const again = await open(encodeBatchRequest({ identities: [one, several], items }))
    const none = "UNAUTHENTICATED"
    expect(await again().ended).toEqual(["answered", none, "answered", "answered", none, none])
    expect(await again().ended).toEqual(Array(6).fill(none))
    expect(target.seen.map(({ context }) => callerOf(context).call?.stepIndex)).toEqual([0, 1, 2])
  })

  test("cannot use the identity of several where one is asked for", async () => {
    const bound = { ...member(newId()), call: { runId: newId(), stepIndex: 0, digest } }
    const token = await orchestrator.signer.signCalls([bound], "tools")
    await expect(testRuntime("tools").verifier.verify(token)).rejects.toSatisfy(
      isReason("UNAUTHENTICATED"),
    )
  })

  test("is refused with nothing in it, with too much, and when it is none", async () => {
    const ours = newId()
    const identities = [await sign(member(ours))]
    const items = Array.from({ length: 65 }, () => itemOf(ours, 0))
    expect(await send(encodeBatchRequest({ identities, items }))).toBe("MALFORMED_REQUEST")
    expect(await send(encodeBatchRequest({ identities, items: [] }))).toBe("MALFORMED_REQUEST")
    expect(await send(Buffer.from([0x12, 9, 1]))).toBe("MALFORMED_REQUEST")
    const many = Array<string>(65).fill("x")
    const one = items.slice(0, 1)
    expect(await send(encodeBatchRequest({ identities: many, items: one }))).toBe(
      "MALFORMED_REQUEST",
    )
    expect(target.seen).toHaveLength(0)
  })

  test("fails an item alone whose message cannot be read", async () => {
    const ours = newId()
    const identities = [await sign(member(ours))]
    const broken = { ...itemOf(ours, 0), request: Buffer.from([0x0a, 99]) }
    const items = [broken, itemOf(ours, 0)]
    expect(await send(encodeBatchRequest({ identities, items }))).toEqual([
      "MALFORMED_REQUEST",
      "answered",
    ])
  })

  test("is for the service that may call the method alone", async () => {
    const ours = newId()
    const moderation = testRuntime("moderation")
    const identities = [await sign(member(ours), moderation)]
    const batch = encodeBatchRequest({ identities, items: [itemOf(ours, 0)] })
    expect(await send(batch, moderation)).toBe("CALLER_NOT_ALLOWED")
    expect(target.seen).toHaveLength(0)
  })

  test("aborts all its items when it is cancelled", async () => {
    target.execute = hang
    const ours = newId()
    const identities = [await sign(member(ours))]
    const items = [itemOf(ours, 0), itemOf(ours, 0)]
    const { call } = (await open(encodeBatchRequest({ identities, items })))()
    await until(() => target.seen.length === 2)
    const signals = target.seen.map(({ context }) => context.signal)
    call.cancel()
    await until(() => signals.every(({ aborted }) => aborted))
  })
})
