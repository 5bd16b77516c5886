/**
 * The one way in: every public method of every service, by reflection over the descriptors.
 *
 * 1. Nobody is forwarded who was not authenticated on the headers, is no member of the workspace
 *    that the request names, or has too low a role.
 * 2. Not a member, a key of another workspace and no such workspace are one answer.
 * 3. Nothing of the outside request goes on but its message, deadline and cancellation: the headers
 *    of the next hop are made here.
 * 4. A stream ends when its key or membership does, looked at again at most every `recheckMs`.
 */
import type {
  DescMessage,
  DescMethod,
  DescMethodServerStreaming,
  DescMethodUnary,
  Message,
} from "@bufbuild/protobuf"
import {
  type CallOptions,
  ConnectError,
  type ContextKey,
  createContextKey,
  type HandlerContext,
  type ServiceImpl,
  type Transport,
} from "@connectrpc/connect"
import { type AccessRule, Exposure, Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { callSignal } from "../../mesh/call-signal.ts"
import { defaultTimeoutMs, hopReserveMs, remainingMs } from "../../mesh/deadline.ts"
import { type Reason, RunwardenError, reasonOf } from "../../mesh/errors.ts"
import { actingAs, memberSubject, type ServiceName, type Subject } from "../../mesh/identity.ts"
import { accessRuleOf, requireRole } from "../../mesh/interceptors.ts"
import { once } from "../../mesh/method-chain.ts"
import type { Route } from "../../mesh/service.ts"
import type { Authenticator, Principal } from "./authenticator.ts"
import { publicPart, publicServices, upstreamOf } from "./catalog.ts"
import { isUuid } from "./uuid-cursor.ts"

/** Where the gate leaves whom it has authenticated. */
export const principalKey: ContextKey<Principal | undefined> = createContextKey<
  Principal | undefined
>(undefined, { description: "the authenticated principal" })

export interface ForwardingDeps {
  readonly authenticator: Authenticator
  readonly upstream: (service: ServiceName) => Transport
  readonly recheckMs: number
}

/** A route for each public service, whose every method checks, signs and forwards. */
export function forwardingRoutes(deps: ForwardingDeps): readonly Route[] {
  return publicServices.map((whole) => {
    const service = publicPart(whole)
    const upstream = upstreamOf(service)
    const methods = service.methods.map(
      (method) => [method.localName, forward(method, upstream, deps)] as const,
    )
    const implementation = Object.fromEntries(methods) as ServiceImpl<typeof service>
    return { service, implementation }
  })
}

function forward(method: DescMethod, upstream: ServiceName, deps: ForwardingDeps) {
  switch (method.methodKind) {
    case "unary":
      return forwardUnary(method as DescMethodUnary, upstream, deps)
    case "server_streaming":
      return forwardStream(method as DescMethodServerStreaming, upstream, deps)
    default:
      throw new Error(`${method.parent.typeName}/${method.name} takes a stream`)
  }
}

function forwardUnary(method: DescMethodUnary, upstream: ServiceName, deps: ForwardingDeps) {
  const rule = requireForwardable(method)
  return async (message: Message, context: HandlerContext): Promise<Message> => {
    const subject = subjectOf(rule, message, principalOf(context))
    const { timeoutMs, contextValues } = hop(subject, context, defaultTimeoutMs)
    try {
      const { signal } = context
      const transport = deps.upstream(upstream)
      const response = await transport.unary(
        method,
        signal,
        timeoutMs,
        undefined,
        message,
        contextValues,
      )
      return response.message
    } catch (error) {
      throw upstreamError(error)
    }
  }
}

function forwardStream(
  method: DescMethodServerStreaming,
  upstream: ServiceName,
  deps: ForwardingDeps,
) {
  const rule = requireForwardable(method)
  return async function* (message: Message, context: HandlerContext): AsyncGenerator<Message> {
    const principal = principalOf(context)
    const subject = subjectOf(rule, message, principal)
    const { timeoutMs, contextValues } = hop(subject, context, 0)
    const life = callSignal(context.signal)
    const answers = async function* () {
      try {
        const response = await deps
          .upstream(upstream)
          .stream(method, life.signal, timeoutMs, undefined, once(message), contextValues)
        yield* life.guard(response.message)
      } catch (error) {
        throw upstreamError(error)
      }
    }
    try {
      let checkedAt = performance.now()
      for await (const answer of answers()) {
        if (performance.now() - checkedAt >= deps.recheckMs) {
          // Invariant 4: throws what the call would be answered if it were made now.
          subjectOf(rule, message, await deps.authenticator.recheck(principal))
          checkedAt = performance.now()
        }
        yield answer
      }
    } finally {
      // A loop that is left does not cancel the upstream's stream by itself.
      life.abort()
    }
  }
}

/** The rule of a method that can be forwarded; a contract that names no workspace is refused. */
function requireForwardable(method: DescMethodUnary | DescMethodServerStreaming): AccessRule {
  const rule = accessRuleOf(method)
  if (rule.exposure !== Exposure.PUBLIC) return rule
  const hasWorkspace = hasWorkspaceId(method.input)
  if (hasWorkspace && rule.role !== Role.UNSPECIFIED) return rule
  throw new Error(`${method.parent.typeName}/${method.name} is public without workspace or role`)
}

function hasWorkspaceId(message: DescMessage): boolean {
  return message.fields.some(({ name, scalar }) => name === "workspace_id" && scalar !== undefined)
}

function principalOf(context: HandlerContext): Principal {
  const principal = context.values.get(principalKey)
  if (principal === undefined) throw new RunwardenError("UNAUTHENTICATED")
  return principal
}

/** For whom the request goes on. Throws where it must not. */
function subjectOf(rule: AccessRule, message: Message, principal: Principal): Subject {
  switch (rule.exposure) {
    case Exposure.PUBLIC:
      return admitMember(rule.role, workspaceOf(message), principal)
    case Exposure.AUTHENTICATED:
      if (principal.kind === "operator") return operatorSubject("")
      return memberSubject(
        principal.workspaceId,
        principal.actorId,
        principal.role ?? Role.UNSPECIFIED,
      )
    case Exposure.OPERATOR:
      if (principal.kind === "operator") return operatorSubject(workspaceOf(message, ""))
      throw new RunwardenError("ROLE_TOO_LOW", { role: "none", required_role: "operator" })
    default:
      throw new RunwardenError("INTERNAL")
  }
}

function admitMember(required: Role, workspaceId: string, principal: Principal): Subject {
  if (
    principal.kind !== "member" ||
    principal.workspaceId !== workspaceId ||
    principal.role === undefined
  ) {
    throw new RunwardenError("NOT_A_MEMBER", { workspace_id: workspaceId })
  }
  requireRole(principal.role, required)
  return memberSubject(workspaceId, principal.actorId, principal.role)
}

/** The workspace that a request names; `absent` is what an empty one means, if it may be empty. */
function workspaceOf(message: Message, absent?: string): string {
  const workspaceId = "workspaceId" in message ? message.workspaceId : undefined
  if (workspaceId === "" && absent !== undefined) return absent
  if (typeof workspaceId === "string" && isUuid(workspaceId)) return workspaceId
  const description = workspaceId === "" ? "value is required" : "must be a valid UUID"
  throw new RunwardenError(
    "INVALID_REQUEST",
    { field: "workspace_id" },
    { violations: [{ field: "workspace_id", description }] },
  )
}

function operatorSubject(workspaceId: string): Subject {
  return { kind: "operator", workspaceId, actorId: "operator", role: Role.UNSPECIFIED }
}

/** What the next hop gets: the signed subject, and what remains of the deadline. */
function hop(subject: Subject, context: HandlerContext, defaultMs: number): CallOptions {
  const remaining = remainingMs(context)
  const timeoutMs = remaining === undefined ? defaultMs : Math.max(1, remaining - hopReserveMs)
  return actingAs(subject, { timeoutMs })
}

/** Refusals of the gateway itself by a service: the mesh is set up wrongly, the client is not at fault. */
const meshFaults: ReadonlySet<Reason | undefined> = new Set<Reason>([
  "UNAUTHENTICATED",
  "CALLER_NOT_ALLOWED",
  "WORKSPACE_MISMATCH",
])

/** An upstream's headers and trailers are the mesh's own matter; its details go through. */
function upstreamError(error: unknown): unknown {
  if (meshFaults.has(reasonOf(error))) return new RunwardenError("INTERNAL", {}, { cause: error })
  if (!(error instanceof ConnectError)) return error
  for (const name of [...error.metadata.keys()]) error.metadata.delete(name)
  return error
}
