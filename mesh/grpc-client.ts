/**
 * The channel by which one service calls another: grpc-js underneath, the caller's chain on top.
 *
 * Owns up to three channels to one address, each opened at its first call: for unary calls that may
 * be repeated, for unary calls that may not, and for streams. Retry policy is a property of a
 * channel, and streams that last for hours must not take the places of short calls.
 *
 * 1. A call is repeated only when its method is declared NO_SIDE_EFFECTS or IDEMPOTENT, its token is
 *    good for more than one call, and the peer was UNAVAILABLE: at most three attempts, within the
 *    deadline, until the throttle says that the peer is down. A call that never reached the peer is
 *    repeated by gRPC itself.
 * 2. Every call has a deadline; a connection whose peer is silent is found by its pings.
 * 3. Calls of a method with a batch leave together where that loses nothing: not without a
 *    connection, when only gRPC can tell whether a call has left, and not with headers of their own.
 */
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodStreaming,
  type DescMethodUnary,
  type MessageInitShape,
} from "@bufbuild/protobuf"
import { MethodOptions_IdempotencyLevel as Idempotency } from "@bufbuild/protobuf/wkt"
import type {
  ContextValues,
  Interceptor,
  StreamResponse,
  Transport,
  UnaryRequest,
  UnaryResponse,
} from "@connectrpc/connect"
import { type ChannelCredentials, type ChannelOptions, Client, credentials } from "@grpc/grpc-js"
import { type BatchedUnary, createBatchedUnary } from "./batched-unary.ts"
import { callSignal } from "./call-signal.ts"
import { RunwardenError, toConnectError } from "./errors.ts"
import { sendRepeatable, sendStream, sendUnary } from "./grpc-calls.ts"
import { subjectKey } from "./identity.ts"
import { clientInterceptors } from "./interceptors.ts"
import {
  type AnyCall,
  type ArrivedCall,
  compose,
  type HeaderInit,
  methodName,
  single,
  streamRequest,
  unaryRequest,
  valuesOfCall,
} from "./method-chain.ts"
import { meshLimits, writeMaxBytes } from "./server-limits.ts"
import type { Runtime } from "./service.ts"

/** What differs where the peer is no service of this mesh, nor of its deployment. */
export interface ForeignPeer {
  /** In the clear if not given. */
  readonly credentials?: ChannelCredentials
  readonly channelOptions?: ChannelOptions
  /** What each call passes last. */
  readonly innermost?: readonly Interceptor[]
  /** Whether calls may leave together; if not given, they do. */
  readonly hasBatches?: boolean
}

/**
 * Creates the transport by which `caller` reaches the service `audience` at a gRPC target, such as
 * `127.0.0.1:7102` or `dns:///tools:7102`. All addresses behind a name are used, in turn. Nothing
 * is connected before the first call.
 */
export function createGrpcTransport(
  address: string,
  caller: Runtime,
  audience: string,
  options: ForeignPeer = {},
): Transport & AsyncDisposable {
  const { innermost = [], hasBatches = true } = options
  const interceptors = [...clientInterceptors(caller, audience), ...innermost]
  const channels = new Map<ChannelKind, Client>()
  const calls = new Map<DescMethod, AnyCall>()
  const batched = new Map<DescMethod, BatchedUnary | undefined>()
  let isClosed = false

  function channelOf(kind: ChannelKind): Client {
    if (isClosed) throw new RunwardenError("SHUTTING_DOWN", { service: caller.name })
    let channel = channels.get(kind)
    if (channel === undefined) {
      const secured = options.credentials ?? credentials.createInsecure()
      const settings = { ...channelOptions(kind), ...options.channelOptions }
      channel = new Client(address, secured, settings)
      channels.set(kind, channel)
    }
    return channel
  }

  function callOf(method: DescMethod): AnyCall {
    let call = calls.get(method)
    if (call === undefined) {
      const send: AnyCall = (request) =>
        request.stream
          ? sendStream(channelOf("stream"), request)
          : isRepeatable(request)
            ? sendRepeatable(channelOf("repeat"), request)
            : sendUnary(channelOf("once"), request)
      call = compose(interceptors, send)
      calls.set(method, call)
    }
    return call
  }

  function batchedOf(method: DescMethodUnary): BatchedUnary | undefined {
    if (!batched.has(method)) {
      const deps = { caller, audience, url: `${address}/${methodName(method)}` }
      const channel = () => channelOf("once")
      const alone = (request: UnaryRequest) => callOf(method)(request) as Promise<UnaryResponse>
      batched.set(method, createBatchedUnary(method, { ...deps, channel, alone }))
    }
    return batched.get(method)
  }

  return {
    async unary<I extends DescMessage, O extends DescMessage>(
      method: DescMethodUnary<I, O>,
      signal: AbortSignal | undefined,
      timeoutMs: number | undefined,
      header: HeaderInit,
      input: MessageInitShape<I>,
      contextValues?: ContextValues,
    ): Promise<UnaryResponse<I, O>> {
      const life = callSignal(signal)
      try {
        const message = create(method.input, input)
        const together = hasBatches && header === undefined ? batchedOf(method) : undefined
        const among = together?.(message, { signal, timeoutMs, contextValues })
        if (among !== undefined) return (await among) as UnaryResponse<I, O>
        const leaving = leavingCall(address, method, life.signal, timeoutMs, header, contextValues)
        const call = callOf(method)(unaryRequest(method, message, leaving))
        return (await life.race(call)) as UnaryResponse<I, O>
      } catch (error) {
        throw toConnectError(error)
      } finally {
        life.release()
      }
    },

    async stream<I extends DescMessage, O extends DescMessage>(
      method: DescMethodStreaming<I, O>,
      signal: AbortSignal | undefined,
      timeoutMs: number | undefined,
      header: HeaderInit,
      input: AsyncIterable<MessageInitShape<I>>,
      contextValues?: ContextValues,
    ): Promise<StreamResponse<I, O>> {
      if (method.methodKind !== "server_streaming") {
        throw toConnectError(new RunwardenError("METHOD_NOT_FOUND", { method: methodName(method) }))
      }
      const life = callSignal(signal)
      try {
        const message = create(method.input, await single(input))
        const leaving = leavingCall(address, method, life.signal, timeoutMs, header, contextValues)
        const call = callOf(method)(streamRequest(method, message, leaving))
        const response = (await life.race(call)) as StreamResponse<I, O>
        return { ...response, message: life.guard(response.message, toConnectError) }
      } catch (error) {
        life.abort()
        throw toConnectError(error)
      }
    },

    async [Symbol.asyncDispose]() {
      isClosed = true
      for (const channel of channels.values()) channel.close()
    },
  }
}

type ChannelKind = "repeat" | "once" | "stream"

function channelOptions(kind: ChannelKind) {
  return {
    "grpc.service_config": JSON.stringify(serviceConfig(kind)),
    "grpc.service_config_disable_resolution": 1,
    "grpc.keepalive_time_ms": meshLimits.keepaliveTimeMs,
    "grpc.keepalive_timeout_ms": meshLimits.keepaliveTimeoutMs,
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
    "grpc.max_receive_message_length": writeMaxBytes,
    "grpc.max_send_message_length": writeMaxBytes,
    // Peers are reached directly; a proxy of the environment is for the world outside.
    "grpc.enable_http_proxy": 0,
    "grpc.enable_channelz": 0,
  }
}

function serviceConfig(kind: ChannelKind) {
  const balancing = { loadBalancingConfig: [{ round_robin: {} }] }
  if (kind !== "repeat") return balancing
  return {
    ...balancing,
    methodConfig: [
      {
        name: [{}],
        retryPolicy: {
          maxAttempts: 3,
          initialBackoff: "0.05s",
          maxBackoff: "1s",
          backoffMultiplier: 2,
          retryableStatusCodes: ["UNAVAILABLE"],
        },
      },
    ],
    // A replica that dies takes all that it had in flight with it, at once: half of the tokens is what
    // may then be repeated. Whatever their number, calls to a peer that stays down become at most a
    // tenth more, for that is how fast tokens come back.
    retryThrottling: { maxTokens: 200, tokenRatio: 0.1 },
  }
}

function isRepeatable({ method, contextValues }: UnaryRequest): boolean {
  // Sent again, a token for one call is refused, and its answer would hide why the first one failed.
  if (contextValues.get(subjectKey)?.call !== undefined) return false
  return (
    method.idempotency === Idempotency.NO_SIDE_EFFECTS ||
    method.idempotency === Idempotency.IDEMPOTENT
  )
}

function leavingCall(
  address: string,
  method: DescMethod,
  signal: AbortSignal,
  timeoutMs: number | undefined,
  header: HeaderInit,
  contextValues: ContextValues | undefined,
): ArrivedCall {
  return {
    url: `${address}/${methodName(method)}`,
    signal,
    header: new Headers(header),
    contextValues: valuesOfCall(method, timeoutMs, contextValues),
  }
}
