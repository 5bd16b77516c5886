/**
 * Owns: the unary calls of one method that wait to leave together, and those that left in batches
 * and are not answered.
 *
 * 1. What is due in one turn of the event loop leaves at once: nothing waits for company.
 * 2. Every item is answered once: by its result, or by what became of its batch.
 * 3. A batch whose items have all gone is cancelled; until then one that goes only stops waiting.
 * 4. A peer that goes on answering when everything is answered is not listened to.
 * 5. A peer that does not know the method has executed nothing: its items go on one by one, and so
 *    does every later call.
 */
import type { DescMethodServerStreaming } from "@bufbuild/protobuf"
import { Code, ConnectError } from "@connectrpc/connect"
import { type Client, type ClientReadableStream, Metadata, type StatusObject } from "@grpc/grpc-js"
import { maxBatchItems } from "./batch-methods.ts"
import { decodeBatchResponse, encodeBatchRequest, itemOverheadBytes } from "./batch-wire.ts"
import { toWallClock } from "./deadline.ts"
import { fromStatus, fromStatusBytes } from "./grpc-metadata.ts"
import { identityHeader, type Subject, serviceSubject } from "./identity.ts"
import { methodName } from "./method-chain.ts"
import { noteIfUnsent } from "./never-sent.ts"
import { readMaxBytes } from "./server-limits.ts"
import type { Runtime } from "./service.ts"

/** A call that is about to leave. */
export interface LeavingItem {
  readonly subject: Subject
  readonly request: Uint8Array
  /** In milliseconds of the epoch; undefined for the peer's usual one. */
  readonly deadline: number | undefined
  readonly traceParent: string
  /** Sends it alone, where the peer takes no batches. */
  alone(): Promise<Uint8Array>
}

/** The calls of one method to one peer. */
export interface Coalescer {
  /** False from the moment on when the peer said that it takes no batches. */
  readonly isOpen: boolean
  /** Resolves to the encoded answer, or rejects as the unary call would. */
  add(item: LeavingItem): { readonly answer: Promise<Uint8Array>; readonly leave: () => void }
}

/** What a coalescer stands on. */
export interface CoalescerDeps {
  readonly batch: DescMethodServerStreaming
  readonly caller: Runtime
  readonly audience: string
  channel(): Client
}

/** A request beyond this leaves alone: its batch would have no room for others. */
export const maxItemBytes = 64 * 1024
/** The rest of what a peer takes is for identities. */
const maxBatchBytes = readMaxBytes - 64 * 1024
/** What the items' own deadlines leave to the peer for telling so. */
const graceMs = 1_000

interface Waiting extends LeavingItem {
  readonly resolve: (answer: Uint8Array) => void
  readonly reject: (error: unknown) => void
  /** Whether it was answered, or its caller has gone. */
  isOver: boolean
  /** Told when its caller has gone. */
  onLeave: () => void
}

export function createCoalescer(deps: CoalescerDeps): Coalescer {
  let waiting: Waiting[] = []
  let isOpen = true

  function flush(): void {
    const items = waiting.filter((item) => !item.isOver)
    waiting = []
    for (const part of parts(items)) {
      void send(deps, part).catch((error: unknown) => {
        for (const item of part) settle(item, () => item.reject(error))
      })
    }
  }

  async function send(
    { batch, caller, audience, channel }: CoalescerDeps,
    items: readonly Waiting[],
  ): Promise<void> {
    const { signer } = caller
    const own = signer.sign(serviceSubject(caller.name, ""), audience)
    const { identities, positions } = await identify(items, caller, audience)
    const metadata = new Metadata()
    metadata.set(identityHeader, await own)
    const now = performance.now()
    const request = encodeBatchRequest({
      identities,
      items: items.map((item, index) => ({
        identity: positions[index] ?? 0,
        timeoutMs: item.deadline === undefined ? 0 : Math.max(1, Math.floor(item.deadline - now)),
        traceParent: item.traceParent,
        request: item.request,
      })),
    })
    const call = channel().makeServerStreamRequest<Buffer, Buffer>(
      `/${methodName(batch)}`,
      pass,
      pass,
      request,
      metadata,
      deadlineOf(items),
    )
    follow(call, items)
  }

  function follow(call: ClientReadableStream<Buffer>, items: readonly Waiting[]): void {
    let messages = 0
    let results = 0
    let status: StatusObject | undefined
    let isAnswered = false
    const cancelIfUnwanted = () => {
      if (items.every(({ isOver }) => isOver)) call.cancel()
    }
    for (const item of items) item.onLeave = cancelIfUnwanted
    cancelIfUnwanted()
    call.on("data", (bytes: Buffer) => {
      messages++
      try {
        for (const { item: index, response, error } of decodeBatchResponse(bytes)) {
          results++
          const item = items[index]
          if (item === undefined) continue
          settle(item, () => {
            if (error === undefined) item.resolve(response ?? nothing)
            else item.reject(fromStatusBytes(error))
          })
        }
        if (Math.max(messages, results) > items.length) {
          call.cancel() // (4)
          failRest(items, new ConnectError("more was answered than asked", Code.Internal))
        }
      } catch (error) {
        call.cancel()
        failRest(items, new ConnectError("the answer cannot be read", Code.Internal, {}, [], error))
      }
    })
    call.on("error", () => undefined)
    call.on("metadata", () => {
      isAnswered = true
    })
    call.on("status", (received) => {
      status = received
    })
    // After the last message: what the status says is said of those that have no result.
    call.on("end", () => {
      const error =
        status === undefined || status.code === 0
          ? new ConnectError("the batch ended without an answer", Code.Unavailable)
          : fromStatus(status)
      if (status !== undefined && !isAnswered) noteIfUnsent(error, status)
      if (error.code === Code.Unimplemented && results === 0) sendAlone(items)
      else failRest(items, error)
    })
  }

  function sendAlone(items: readonly Waiting[]): void {
    isOpen = false
    for (const item of items) {
      settle(item, () => void item.alone().then(item.resolve, item.reject))
    }
  }

  return {
    get isOpen() {
      return isOpen
    },
    add(leaving) {
      const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
      const item: Waiting = { ...leaving, resolve, reject, isOver: false, onLeave: () => undefined }
      if (waiting.push(item) === 1) setImmediate(flush)
      const leave = () => settle(item, () => item.onLeave())
      return { answer: promise, leave }
    },
  }
}

/** Ends an item, once. */
function settle(item: Waiting, end: () => void): void {
  if (item.isOver) return
  item.isOver = true
  end()
}

function failRest(items: readonly Waiting[], error: unknown): void {
  for (const item of items) settle(item, () => item.reject(error))
}

/** The tokens of a batch, each once, and which of their callers is each item's. */
async function identify(
  items: readonly Waiting[],
  { signer }: Runtime,
  audience: string,
): Promise<{ readonly identities: readonly string[]; readonly positions: readonly number[] }> {
  const bound = items.flatMap(({ subject }) => (subject.call === undefined ? [] : [subject]))
  const signing = bound.length === 0 ? undefined : signer.signCalls(bound, audience)
  const tokens = await Promise.all(
    items.map(({ subject }) =>
      subject.call === undefined ? signer.sign(subject, audience) : undefined,
    ),
  )
  const known = new Map<string, number>()
  for (const token of tokens) {
    if (token !== undefined && !known.has(token)) known.set(token, known.size)
  }
  // The token of several callers comes last: if it is refused, the others keep their positions.
  let next = known.size
  const positions = tokens.map((token) => (token === undefined ? next++ : (known.get(token) ?? 0)))
  const last = await signing
  return { identities: last === undefined ? [...known.keys()] : [...known.keys(), last], positions }
}

/** As long as the last of the items waits. */
function deadlineOf(items: readonly LeavingItem[]): { readonly deadline?: number } {
  const deadline = Math.max(...items.map((item) => item.deadline ?? Number.POSITIVE_INFINITY))
  return Number.isFinite(deadline) ? { deadline: toWallClock(deadline) + graceMs } : {}
}

function parts(items: readonly Waiting[]): readonly (readonly Waiting[])[] {
  const found: Waiting[][] = []
  let room = 0
  let places = 0
  for (const item of items) {
    const size = item.request.byteLength + itemOverheadBytes
    if (places === 0 || size > room) {
      found.push([])
      room = maxBatchBytes
      places = maxBatchItems
    }
    found.at(-1)?.push(item)
    room -= size
    places--
  }
  return found
}

const nothing = new Uint8Array()

function pass(bytes: Buffer): Buffer {
  return bytes
}
