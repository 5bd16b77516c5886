/** What the tests of this service share: a gateway on a real port, with upstreams that record. */
import { createHash } from "node:crypto"
import {
  create,
  type DescMessage,
  type DescMethod,
  type Message,
  type MessageInitShape,
} from "@bufbuild/protobuf"
import { createContextValues, type Transport } from "@connectrpc/connect"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { type ServiceName, type Subject, subjectKey } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { methodName, single } from "../../mesh/method-chain.ts"
import { testDatabase, testRuntime } from "../../mesh/testing.ts"
import { mintKey } from "./api-key.ts"
import { createGateway } from "./service.ts"

/** A call as an upstream got it. */
export interface Forwarded {
  readonly upstream: ServiceName
  readonly method: string
  readonly message: Message
  readonly subject: Subject | undefined
  readonly timeoutMs: number | undefined
  readonly header: Headers
  readonly signal: AbortSignal | undefined
}

/** What the upstreams do, where a test wants anything but an empty answer. */
export interface Script {
  unary?: (method: DescMethod, call: Forwarded) => object | Promise<object>
  stream?: (method: DescMethod, call: Forwarded) => AsyncIterable<object>
  /** Replaces the transport to one service. */
  transports?: Partial<Record<ServiceName, Transport>>
}

export interface TestWorkspace {
  readonly workspaceId: string
  readonly actors: Readonly<Record<RoleName, string>>
  readonly keys: Readonly<Record<RoleName, string>>
}

type RoleName = "viewer" | "member" | "approver" | "admin"

const roles = {
  viewer: Role.VIEWER,
  member: Role.MEMBER,
  approver: Role.APPROVER,
  admin: Role.ADMIN,
} as const

/** Starts a gateway; `script` may be changed while it runs. */
export async function startGateway(options: { readonly membershipCacheMs?: number } = {}) {
  const stack = new AsyncDisposableStack()
  const database = stack.use(await testDatabase("gateway"))
  const calls: Forwarded[] = []
  const script: Script = {}
  const operatorKey = mintKey().secret
  const runtime = testRuntime("gateway")
  const gateway = stack.use(
    createGateway(
      {
        database,
        listen: "127.0.0.1:0",
        membershipCacheMs: options.membershipCacheMs ?? 5_000,
        operatorKeyHash: createHash("sha256").update(operatorKey).digest(),
      },
      {
        runtime,
        upstream: (name) => script.transports?.[name] ?? recordingTransport(name, calls, script),
      },
    ),
  )
  await gateway.start(AbortSignal.timeout(60_000))
  return {
    gateway,
    runtime,
    database,
    calls,
    script,
    operatorKey,
    url: gateway.url,
    target: { routes: gateway.routes, runtime },
    addWorkspace: () => addWorkspace(gateway),
    /** A REST or Connect call with JSON. */
    call: (path: string, init: CallInit = {}) => callJson(`${gateway.url}${path}`, init),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

export type TestGateway = Awaited<ReturnType<typeof startGateway>>

export interface CallInit {
  readonly method?: string
  readonly key?: string
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

export interface JsonAnswer {
  readonly status: number
  readonly json: Record<string, unknown>
  readonly headers: Headers
  readonly text: string
}

async function callJson(url: string, init: CallInit): Promise<JsonAnswer> {
  const response = await fetch(url, {
    method: init.method ?? (init.body === undefined ? "GET" : "POST"),
    headers: {
      ...(init.body === undefined ? {} : { "content-type": "application/json" }),
      ...(init.key === undefined ? {} : { authorization: `Bearer ${init.key}` }),
      ...init.headers,
    },
    ...(init.body === undefined
      ? {}
      : { body: typeof init.body === "string" ? init.body : JSON.stringify(init.body) }),
  })
  const text = await response.text()
  const isJson = response.headers.get("content-type")?.startsWith("application/json") === true
  const json = isJson && text !== "" ? (JSON.parse(text) as Record<string, unknown>) : {}
  return { status: response.status, json, headers: response.headers, text }
}

/** The reason of an error answer. */
export function reasonIn(answer: JsonAnswer): unknown {
  return errorInfo(answer)?.reason
}

/** The ErrorInfo of an error answer. */
export function errorInfo(
  answer: JsonAnswer,
): { readonly reason: string; readonly metadata: Readonly<Record<string, string>> } | undefined {
  const details = answer.json.details as readonly { type: string; debug: never }[] | undefined
  return details?.find((detail) => detail.type === "google.rpc.ErrorInfo")?.debug
}

async function addWorkspace(gateway: ReturnType<typeof createGateway>): Promise<TestWorkspace> {
  const workspaceId = newId()
  const names = Object.keys(roles) as RoleName[]
  const actors = Object.fromEntries(names.map((name) => [name, newId()]))
  const { secrets } = await gateway.ensureWorkspace({
    workspaceId,
    displayName: "Test",
    members: names.map((name) => ({
      actorId: String(actors[name]),
      displayName: name,
      role: roles[name],
    })),
  })
  const keys = Object.fromEntries(names.map((name) => [name, secrets.get(String(actors[name]))]))
  return { workspaceId, actors, keys } as unknown as TestWorkspace
}

function recordingTransport(upstream: ServiceName, calls: Forwarded[], script: Script): Transport {
  function record(
    method: DescMethod,
    signal: AbortSignal | undefined,
    timeoutMs: number | undefined,
    header: ConstructorParameters<typeof Headers>[0],
    message: Message,
    values = createContextValues(),
  ): Forwarded {
    const call = {
      upstream,
      method: methodName(method),
      message,
      subject: values.get(subjectKey),
      timeoutMs,
      header: new Headers(header),
      signal,
    }
    calls.push(call)
    return call
  }
  return {
    async unary(method, signal, timeoutMs, header, input, values) {
      const message = create(method.input, input) as Message
      const call = record(method, signal, timeoutMs, header, message, values)
      const answer = (await script.unary?.(method, call)) ?? {}
      return {
        stream: false,
        service: method.parent,
        method,
        header: new Headers({ "x-internal-header": "secret" }),
        trailer: new Headers({ "x-internal-trailer": "secret" }),
        message: create(method.output, answer as MessageInitShape<typeof method.output>),
      }
    },
    async stream(method, signal, timeoutMs, header, input, values) {
      const message = create(method.input, await single(input)) as Message
      const call = record(method, signal, timeoutMs, header, message, values)
      return {
        stream: true,
        service: method.parent,
        method,
        header: new Headers(),
        trailer: new Headers(),
        message: made(method.output, script.stream?.(method, call)),
      }
    },
  }
}

async function* made<O extends DescMessage>(schema: O, answers: AsyncIterable<object> = none()) {
  for await (const answer of answers) yield create(schema, answer as MessageInitShape<O>)
}

async function* none(): AsyncGenerator<object> {}

/** One message of a stream, or its end. */
export interface StreamFrame {
  readonly isEnd: boolean
  readonly json: Record<string, unknown>
}

/** Opens a server stream by Connect's JSON, without Connect's own client. */
export async function* openStream(
  url: string,
  key: string,
  body: object,
  signal?: AbortSignal,
): AsyncGenerator<StreamFrame> {
  const payload = Buffer.from(JSON.stringify(body))
  const head = Buffer.alloc(5)
  head.writeUInt32BE(payload.byteLength, 1)
  const response = await fetch(url, {
    method: "POST",
    headers: { "content-type": "application/connect+json", authorization: `Bearer ${key}` },
    body: Buffer.concat([head, payload]),
    ...(signal === undefined ? {} : { signal }),
  })
  let rest = Buffer.alloc(0)
  for await (const chunk of response.body ?? []) {
    rest = Buffer.concat([rest, chunk])
    while (rest.byteLength >= 5 && rest.byteLength >= 5 + rest.readUInt32BE(1)) {
      const end = 5 + rest.readUInt32BE(1)
      const json = JSON.parse(rest.toString("utf8", 5, end)) as Record<string, unknown>
      yield { isEnd: (rest.readUInt8(0) & 2) !== 0, json }
      rest = rest.subarray(end)
    }
  }
}
