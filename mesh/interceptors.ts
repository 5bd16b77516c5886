/**
 * The one chain that every call passes, whatever carries it.
 *
 * On the server, outermost first: trace, errors, deadline, identity, access, validation. On the
 * client: trace, errors, identity. The gateway's edge takes the first three of the server's chain
 * and puts its own authentication in place of the rest.
 */
import {
  type DescMethod,
  type DescService,
  getOption,
  hasOption,
  type Message,
} from "@bufbuild/protobuf"
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect"
import {
  type AccessRule,
  access,
  Exposure,
  Role,
  RoleSchema,
} from "../gen/runwarden/options/v1/access_pb.ts"
import { deadlineKey, defaultTimeoutMs, longestTimeoutMs, maxTimeoutMs } from "./deadline.ts"
import { RunwardenError, reasonOf, toConnectError } from "./errors.ts"
import { type Caller, callerKey, hopTokenKey, identityHeader, subjectKey } from "./identity.ts"
import { methodName } from "./method-chain.ts"
import type { Runtime } from "./service.ts"
import {
  type Carrier,
  clientTraceInterceptor,
  serverTraceInterceptor,
} from "./trace-interceptors.ts"
import { requireValid } from "./validation.ts"
import { watch } from "./watch-call.ts"

type UnaryOrStream = Parameters<ReturnType<Interceptor>>[0]
type Answer = Awaited<ReturnType<ReturnType<Interceptor>>>

/** The chain of every service's own transports. */
export function serverInterceptors(runtime: Runtime, carrier: Carrier = "headers"): Interceptor[] {
  return [
    ...outerInterceptors(runtime, carrier),
    identityInterceptor(runtime),
    accessInterceptor(),
    validationInterceptor(),
  ]
}

/** The part of the chain that does not ask who is calling: trace, errors, deadline. */
export function outerInterceptors(runtime: Runtime, carrier: Carrier = "headers"): Interceptor[] {
  return [
    serverTraceInterceptor(runtime, carrier),
    errorsInterceptor(runtime),
    deadlineInterceptor(),
  ]
}

/** The chain of every call that a service makes of another. */
export function clientInterceptors(
  runtime: Runtime,
  audience: string,
  carrier: Carrier = "headers",
): Interceptor[] {
  return [
    clientTraceInterceptor(runtime, audience, carrier),
    clientErrorsInterceptor(audience),
    signingInterceptor(runtime, audience, carrier),
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
  if (!hasOption(method, access)) throw new Error(`${methodName(method)} has no access rule`)
  const found = getOption(method, access)
  if (found.exposure === Exposure.UNSPECIFIED) {
    throw new Error(`${methodName(method)} has no exposure`)
  }
  return found
}

/** Throws where a method of the services lacks its access rule. */
export function requireAccessRules(services: Iterable<DescService>): void {
  for (const service of services) for (const method of service.methods) accessRuleOf(method)
}

function errorsInterceptor(runtime: Runtime): Interceptor {
  return (next) => (request) =>
    watch(next(request), {
      failed: (error) => {
        throw toServedError(error, runtime, request.method)
      },
    })
}

/** The error that leaves a server; one that is nobody's fault but its own is logged. */
export function toServedError(error: unknown, runtime: Runtime, method: DescMethod): ConnectError {
  const mapped = toConnectError(error)
  if (mapped.code === Code.Internal || mapped.code === Code.Unknown) {
    runtime.log.error({ err: mapped.cause ?? error, method: methodName(method) }, "call failed")
  }
  return mapped
}

function clientErrorsInterceptor(audience: string): Interceptor {
  return (next) => (request) =>
    watch(next(request), {
      failed: (error) => {
        throw toCallerError(error, audience)
      },
    })
}

/** What a failed call means to its caller, where the peer did not say it with a reason. */
export function toCallerError(error: unknown, audience: string): unknown {
  if (reasonOf(error) !== undefined || !(error instanceof ConnectError)) return error
  switch (error.code) {
    case Code.Unavailable:
      return new RunwardenError(
        "DEPENDENCY_UNAVAILABLE",
        { dependency: audience },
        { cause: error },
      )
    case Code.DeadlineExceeded:
    case Code.Canceled:
      return toConnectError(error)
    default:
      // A foreign peer's status is its caller's to judge; it gets a reason where it leaves.
      return error
  }
}

/**
 * Answers in time even when a handler ignores its signal: the handler may run on, its answer is
 * thrown away.
 */
function deadlineInterceptor(): Interceptor {
  return (next) => (request) => {
    const { signal, stream } = request
    const now = performance.now()
    const limit = stream ? Number.POSITIVE_INFINITY : now + maxTimeoutMs
    const usual = stream ? Number.POSITIVE_INFINITY : now + defaultTimeoutMs
    const deadline = Math.min(request.contextValues.get(deadlineKey) ?? usual, limit)
    if (signal.aborted) return Promise.reject(endedEarly(request, deadline))
    return new Promise((resolve, reject) => {
      const stop = () => {
        release()
        reject(endedEarly(request, deadline))
      }
      const release = () => {
        clearTimeout(timer)
        signal.removeEventListener("abort", stop)
      }
      const delay = Math.min(Math.max(0, deadline - now), longestTimeoutMs)
      const timer = Number.isFinite(deadline)
        ? setTimeout(() => {
            release()
            reject(new RunwardenError("DEADLINE_EXCEEDED"))
          }, delay)
        : undefined
      signal.addEventListener("abort", stop)
      attempt(next, request).then(
        (answer) => {
          release()
          resolve(answer)
        },
        (error) => {
          release()
          reject(error)
        },
      )
    })
  }
}

/** What throws at once is a failed call like any other. */
async function attempt(next: ReturnType<Interceptor>, request: UnaryOrStream): Promise<Answer> {
  return next(request)
}

function endedEarly(request: UnaryOrStream, deadline: number): RunwardenError {
  const cause: unknown = request.signal.reason
  const isDeadline =
    performance.now() >= deadline ||
    (cause instanceof ConnectError && cause.code === Code.DeadlineExceeded)
  return new RunwardenError(isDeadline ? "DEADLINE_EXCEEDED" : "CANCELLED", {}, { cause })
}

/** A transport that verified the token on the headers has left the caller; then nothing is to do. */
function identityInterceptor(runtime: Runtime): Interceptor {
  return (next) => async (request) => {
    if (request.contextValues.get(callerKey) === undefined) {
      const token = request.contextValues.get(hopTokenKey) ?? request.header.get(identityHeader)
      if (token === null) throw new RunwardenError("UNAUTHENTICATED")
      request.contextValues.set(callerKey, await runtime.verifier.verify(token))
    }
    return next(request)
  }
}

function signingInterceptor(runtime: Runtime, audience: string, carrier: Carrier): Interceptor {
  return (next) => async (request) => {
    const subject = request.contextValues.get(subjectKey)
    if (subject === undefined) throw forNobody(request.method)
    const token = await runtime.signer.sign(subject, audience)
    if (carrier === "process") request.contextValues.set(hopTokenKey, token)
    else request.header.set(identityHeader, token)
    return next(request)
  }
}

/** The mistake of a caller that does not say for whom it calls. */
export function forNobody(method: DescMethod): Error {
  return new Error(`a call of ${methodName(method)} says not for whom: pass actingAs(subject)`)
}

function accessInterceptor(): Interceptor {
  return (next) => (request) => {
    const caller = request.contextValues.get(callerKey)
    if (caller === undefined) throw new RunwardenError("UNAUTHENTICATED")
    requireAccess(request.method, caller)
    return next(onMessage(request, (message) => requireWorkspace(message, caller)))
  }
}

/** Throws unless the access rule of the method lets the caller in. */
export function requireAccess(method: DescMethod, caller: Caller): void {
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
    method: methodName(method),
  })
}

/** Throws where a request names another workspace than the identity it came with. */
export function requireWorkspace(message: object, caller: Caller): void {
  if (!("workspaceId" in message)) return
  if (message.workspaceId !== caller.workspaceId) throw new RunwardenError("WORKSPACE_MISMATCH")
}

function validationInterceptor(): Interceptor {
  return (next) => (request) =>
    next(onMessage(request, (message) => requireValid(request.method.input, message)))
}

/** Runs a check on each request message: at once for a unary call, as they come for a stream. */
function onMessage(request: UnaryOrStream, check: (message: Message) => void): UnaryOrStream {
  if (!request.stream) {
    check(request.message as Message)
    return request
  }
  const messages = request.message
  async function* checked() {
    for await (const message of messages) {
      check(message as Message)
      yield message
    }
  }
  return { ...request, message: checked() }
}
