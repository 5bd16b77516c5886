/**
 * The one chain that every call passes, whatever carries it.
 *
 * On the server, outermost first: trace, errors, deadline, identity, access, validation. On the
 * client: trace, errors, identity. The gateway's edge takes the first three of the server's chain
 * and puts its own authentication in place of the rest.
 */
import { type DescMethod, type DescService, getOption, hasOption } from "@bufbuild/protobuf"
import { createValidator } from "@bufbuild/protovalidate"
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect"
import { createValidateInterceptor } from "@connectrpc/validate"
import { context, SpanKind, trace } from "@opentelemetry/api"
import {
  type AccessRule,
  access,
  Exposure,
  Role,
  RoleSchema,
} from "../gen/runwarden/options/v1/access_pb.ts"
import { deadlineKey, defaultTimeoutMs, longestTimeoutMs, maxTimeoutMs } from "./deadline.ts"
import { RunwardenError, reasonOf, toConnectError } from "./errors.ts"
import { type Caller, callerKey, identityHeader, subjectKey } from "./identity.ts"
import type { Runtime } from "./service.ts"
import { extractTrace, failSpan, injectTrace } from "./tracing.ts"

type UnaryOrStream = Parameters<ReturnType<Interceptor>>[0]
type Answer = Awaited<ReturnType<ReturnType<Interceptor>>>

/** The chain of every service's own transports. */
export function serverInterceptors(runtime: Runtime): Interceptor[] {
  return [
    ...outerInterceptors(runtime),
    identityInterceptor(runtime),
    accessInterceptor(),
    validationInterceptor(),
  ]
}

/** The part of the chain that does not ask who is calling: trace, errors, deadline. */
export function outerInterceptors(runtime: Runtime): Interceptor[] {
  return [serverTraceInterceptor(runtime), errorsInterceptor(runtime), deadlineInterceptor()]
}

/** The chain of every call that a service makes of another. */
export function clientInterceptors(runtime: Runtime, audience: string): Interceptor[] {
  return [
    clientTraceInterceptor(runtime, audience),
    clientErrorsInterceptor(audience),
    signingInterceptor(runtime, audience),
  ]
}

/**
 * The access rule of a method. A method without one is refused at start-up by the transports, so
 * that a forgotten rule never means an open door.
 */
export function accessRuleOf(method: DescMethod): AccessRule {
  let found = knownRules.get(method)
  if (found === undefined) {
    found = readAccessRule(method)
    knownRules.set(method, found)
  }
  return found
}

// Reading an option parses its bytes anew each time, which would be a third of a local call's cost.
const knownRules = new WeakMap<DescMethod, AccessRule>()

function readAccessRule(method: DescMethod): AccessRule {
  if (!hasOption(method, access))
    throw new Error(`${method.parent.typeName}/${method.name} has no access rule`)
  const found = getOption(method, access)
  if (found.exposure === Exposure.UNSPECIFIED) {
    throw new Error(`${method.parent.typeName}/${method.name} has no exposure`)
  }
  return found
}

/** Throws where a method of the services lacks its access rule. */
export function requireAccessRules(services: Iterable<DescService>): void {
  for (const service of services) for (const method of service.methods) accessRuleOf(method)
}

function serverTraceInterceptor(runtime: Runtime): Interceptor {
  return (next) => (request) => {
    const parent = extractTrace(request.header)
    const span = runtime.tracer.startSpan(
      spanName(request),
      { kind: SpanKind.SERVER, attributes: rpcAttributes(request) },
      parent,
    )
    const active = trace.setSpan(parent, span)
    return context.with(active, () =>
      watch(next(request), {
        failed: (error) => failSpan(span, error),
        ended: () => span.end(),
      }),
    )
  }
}

function clientTraceInterceptor(runtime: Runtime, audience: string): Interceptor {
  return (next) => (request) => {
    const span = runtime.tracer.startSpan(spanName(request), {
      kind: SpanKind.CLIENT,
      attributes: { ...rpcAttributes(request), "server.address": audience },
    })
    return context.with(trace.setSpan(context.active(), span), () => {
      injectTrace(request.header)
      return watch(next(request), {
        failed: (error) => failSpan(span, error),
        ended: () => span.end(),
      })
    })
  }
}

function errorsInterceptor(runtime: Runtime): Interceptor {
  return (next) => (request) =>
    watch(next(request), {
      failed: (error) => {
        const mapped = toConnectError(error)
        if (mapped.code === Code.Internal || mapped.code === Code.Unknown) {
          runtime.log.error(
            { err: mapped.cause ?? error, method: spanName(request) },
            "call failed",
          )
        }
        throw mapped
      },
    })
}

function clientErrorsInterceptor(audience: string): Interceptor {
  return (next) => (request) =>
    watch(next(request), {
      failed: (error) => {
        if (reasonOf(error) !== undefined || !(error instanceof ConnectError)) throw error
        switch (error.code) {
          case Code.Unavailable:
            throw new RunwardenError(
              "DEPENDENCY_UNAVAILABLE",
              { dependency: audience },
              { cause: error },
            )
          case Code.DeadlineExceeded:
          case Code.Canceled:
            throw toConnectError(error)
          default:
            // A foreign peer's status is its caller's to judge; it gets a reason where it leaves.
            throw error
        }
      },
    })
}

/**
 * Answers in time even when a handler ignores its signal: the handler may run on, its answer is
 * thrown away.
 */
function deadlineInterceptor(): Interceptor {
  return (next) => async (request) => {
    const limit = request.stream ? Number.POSITIVE_INFINITY : Date.now() + maxTimeoutMs
    const given =
      request.contextValues.get(deadlineKey) ??
      (request.stream ? Number.POSITIVE_INFINITY : Date.now() + defaultTimeoutMs)
    const deadline = Math.min(given, limit)
    const { promise: ended, reject } = Promise.withResolvers<never>()
    const stop = () => reject(endedEarly(request, deadline))
    if (request.signal.aborted) throw endedEarly(request, deadline)
    request.signal.addEventListener("abort", stop, { once: true })
    const timer = Number.isFinite(deadline)
      ? setTimeout(
          () => reject(new RunwardenError("DEADLINE_EXCEEDED")),
          Math.min(Math.max(0, deadline - Date.now()), longestTimeoutMs),
        )
      : undefined
    try {
      // In here, for it may throw at once: a timer that is left then rejects what nobody hears,
      // which ends the process.
      const answer = next(request)
      // Its failure after the deadline has nobody left to hear it.
      answer.catch(() => undefined)
      return await Promise.race([answer, ended])
    } finally {
      clearTimeout(timer)
      request.signal.removeEventListener("abort", stop)
    }
  }
}

function endedEarly(request: UnaryOrStream, deadline: number): RunwardenError {
  const cause: unknown = request.signal.reason
  const isDeadline =
    Date.now() >= deadline ||
    (cause instanceof ConnectError && cause.code === Code.DeadlineExceeded)
  return new RunwardenError(isDeadline ? "DEADLINE_EXCEEDED" : "CANCELLED", {}, { cause })
}

/** A transport that verified the token on the headers has left the caller; then nothing is to do. */
function identityInterceptor(runtime: Runtime): Interceptor {
  return (next) => async (request) => {
    if (request.contextValues.get(callerKey) === undefined) {
      const token = request.header.get(identityHeader)
      if (token === null) throw new RunwardenError("UNAUTHENTICATED")
      request.contextValues.set(callerKey, await runtime.verifier.verify(token))
    }
    return next(request)
  }
}

function signingInterceptor(runtime: Runtime, audience: string): Interceptor {
  return (next) => async (request) => {
    const subject = request.contextValues.get(subjectKey)
    if (subject === undefined) {
      throw new Error(`a call of ${spanName(request)} says not for whom: pass actingAs(subject)`)
    }
    request.header.set(identityHeader, await runtime.signer.sign(subject, audience))
    return next(request)
  }
}

function accessInterceptor(): Interceptor {
  return (next) => (request) => {
    const caller = request.contextValues.get(callerKey)
    if (caller === undefined) throw new RunwardenError("UNAUTHENTICATED")
    requireAccess(request.method, caller)
    return next(onMessage(request, (message) => requireWorkspace(message, caller)))
  }
}

function requireAccess(method: DescMethod, caller: Caller): void {
  const rule = accessRuleOf(method)
  const isDirect = rule.callers.includes(caller.issuer)
  const isForwarded = rule.exposure !== Exposure.INTERNAL && caller.issuer === "gateway"
  if (!isDirect && !isForwarded) throw callerNotAllowed(method, caller)
  if (caller.kind === "service" && isDirect) return
  switch (rule.exposure) {
    case Exposure.INTERNAL:
      return
    case Exposure.AUTHENTICATED:
      return
    case Exposure.OPERATOR:
      if (caller.kind !== "operator") throw callerNotAllowed(method, caller)
      return
    case Exposure.PUBLIC:
      if (caller.kind !== "member") throw callerNotAllowed(method, caller)
      requireRole(caller.role, rule.role)
      return
    default:
      throw callerNotAllowed(method, caller)
  }
}

/** Throws ROLE_TOO_LOW unless the role is at least the required one. */
export function requireRole(role: Role, required: Role): void {
  if (role !== Role.UNSPECIFIED && required !== Role.UNSPECIFIED && role >= required) return
  throw new RunwardenError("ROLE_TOO_LOW", {
    role: roleName(role),
    required_role: roleName(required),
  })
}

/** A role as people write it, such as `approver`. */
export function roleName(role: Role): string {
  return RoleSchema.value[role]?.localName.toLowerCase() ?? "unspecified"
}

function callerNotAllowed(method: DescMethod, caller: Caller): RunwardenError {
  return new RunwardenError("CALLER_NOT_ALLOWED", {
    caller: caller.issuer,
    method: `${method.parent.typeName}/${method.name}`,
  })
}

function requireWorkspace(message: object, caller: Caller): void {
  if (!("workspaceId" in message)) return
  if (message.workspaceId !== caller.workspaceId) throw new RunwardenError("WORKSPACE_MISMATCH")
}

function validationInterceptor(): Interceptor {
  sharedValidator ??= createValidator()
  return createValidateInterceptor({ validator: sharedValidator })
}

let sharedValidator: ReturnType<typeof createValidator> | undefined

/** Runs a check on each request message: at once for a unary call, as they come for a stream. */
function onMessage(request: UnaryOrStream, check: (message: object) => void): UnaryOrStream {
  if (!request.stream) {
    check(request.message)
    return request
  }
  const messages = request.message
  async function* checked() {
    for await (const message of messages) {
      check(message)
      yield message
    }
  }
  return { ...request, message: checked() }
}

interface Watcher {
  /** May throw another error in place of the one it was given. */
  failed(error: unknown): void
  ended?(): void
}

/** Follows a call to its real end: of a stream, when its last message was taken or it was left. */
async function watch(answer: Promise<Answer>, watcher: Watcher): Promise<Answer> {
  let response: Answer
  try {
    response = await answer
  } catch (error) {
    try {
      watcher.failed(error)
      throw error
    } finally {
      watcher.ended?.()
    }
  }
  if (!response.stream) {
    watcher.ended?.()
    return response
  }
  const messages = response.message
  async function* watched() {
    try {
      yield* messages
    } catch (error) {
      watcher.failed(error)
      throw error
    } finally {
      watcher.ended?.()
    }
  }
  return { ...response, message: watched() }
}

function spanName(request: UnaryOrStream): string {
  return `${request.service.typeName}/${request.method.name}`
}

function rpcAttributes(request: UnaryOrStream): Record<string, string> {
  return { "rpc.system.name": "grpc", "rpc.method": spanName(request) }
}
