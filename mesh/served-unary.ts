/**
 * The server's side of a unary call that no headers brought: within a process, or as an item of a
 * batch. It passes the chain of `interceptors.ts`, in the same order, made of plain calls: trace,
 * errors, deadline, access, workspace, validation, handler. Whoever calls has verified the identity.
 */
import {
  create,
  type DescMessage,
  type DescMethod,
  type DescMethodUnary,
  type DescService,
  type Message,
  type MessageInitShape,
} from "@bufbuild/protobuf"
import {
  type ContextKey,
  type ContextValues,
  createContextValues,
  type HandlerContext,
} from "@connectrpc/connect"
import { type Context, SpanKind } from "@opentelemetry/api"
import type { CallLife } from "./call-life.ts"
import { deadlineKey } from "./deadline.ts"
import { type Caller, callerKey } from "./identity.ts"
import { requireAccess, requireWorkspace, toServedError } from "./interceptors.ts"
import type { Handler, HeaderInit } from "./method-chain.ts"
import type { Runtime } from "./service.ts"
import { inCallSpan, labelsOf } from "./trace-interceptors.ts"
import { requireValid } from "./validation.ts"

/** What is known of a call that has arrived. */
export interface UnaryArrival {
  readonly message: Message
  readonly life: CallLife
  /** In milliseconds of the epoch; undefined where the caller sent none. */
  readonly deadline: number | undefined
  /** Below which span it hangs. */
  readonly parent: Context
  readonly header: HeaderInit
  readonly url: string
  /** Verifies who is calling; what it throws is answered like everything else that fails. */
  authenticate(): Caller
}

/** The answer of a handler, with what it said beside its message. */
export interface UnaryAnswer {
  readonly message: Message
  readonly context: HandlerContext
}

/** Makes a method callable: resolves to its answer, or rejects with the error that leaves. */
export function serveUnary(
  method: DescMethodUnary,
  handler: Handler,
  runtime: Runtime,
  protocolName: string,
): (arrival: UnaryArrival) => Promise<UnaryAnswer> {
  const { name, attributes } = labelsOf(method)
  const start = { kind: SpanKind.SERVER, attributes }

  async function answer(arrival: UnaryArrival): Promise<UnaryAnswer> {
    const { message } = arrival
    const caller = arrival.authenticate()
    requireAccess(method, caller)
    requireWorkspace(message, caller)
    requireValid(method.input, message)
    const context = new UnaryContext(method, protocolName, arrival, caller)
    const output = (await handler(message, context)) as MessageInitShape<DescMessage>
    return { message: create(method.output, output), context }
  }

  async function serve(arrival: UnaryArrival): Promise<UnaryAnswer> {
    try {
      return await arrival.life.race(answer(arrival))
    } catch (error) {
      throw toServedError(error, runtime, method)
    }
  }

  return (arrival) => inCallSpan(runtime.tracer, name, start, arrival.parent, () => serve(arrival))
}

/** The context of a handler. What almost no handler asks for is made when it is asked for. */
class UnaryContext implements HandlerContext {
  readonly method: DescMethod
  readonly service: DescService
  readonly requestMethod = "POST"
  readonly protocolName: string
  readonly url: string
  readonly values: ContextValues
  readonly timeoutMs: () => number | undefined
  readonly #life: CallLife
  readonly #header: HeaderInit
  #requestHeader: Headers | undefined
  #responseHeader: Headers | undefined
  #responseTrailer: Headers | undefined

  constructor(
    method: DescMethodUnary,
    protocolName: string,
    { life, header, url, deadline }: UnaryArrival,
    caller: Caller,
  ) {
    this.method = method
    this.service = method.parent
    this.protocolName = protocolName
    this.url = url
    this.values = new UnaryValues(caller, deadline)
    this.timeoutMs = () => (deadline === undefined ? undefined : deadline - performance.now())
    this.#life = life
    this.#header = header
  }

  get signal(): AbortSignal {
    return this.#life.signal
  }

  get requestHeader(): Headers {
    this.#requestHeader ??= new Headers(this.#header)
    return this.#requestHeader
  }

  get responseHeader(): Headers {
    this.#responseHeader ??= new Headers()
    return this.#responseHeader
  }

  get responseTrailer(): Headers {
    this.#responseTrailer ??= new Headers()
    return this.#responseTrailer
  }
}

/** The values that every call has, and room for those that somebody adds. */
class UnaryValues implements ContextValues {
  readonly #caller: Caller
  readonly #deadline: number | undefined
  #more: ContextValues | undefined

  constructor(caller: Caller, deadline: number | undefined) {
    this.#caller = caller
    this.#deadline = deadline
  }

  get<T>(key: ContextKey<T>): T {
    if (key.id === callerKey.id) return this.#caller as T
    if (key.id === deadlineKey.id) return this.#deadline as T
    return this.#more === undefined ? key.defaultValue : this.#more.get(key)
  }

  set<T>(key: ContextKey<T>, value: T): this {
    this.#more ??= createContextValues()
    this.#more.set(key, value)
    return this
  }

  delete(key: ContextKey<unknown>): this {
    this.#more?.delete(key)
    return this
  }
}
