/**
 * A shop as a tool provider: what it keeps lies in its own Postgres, a shop for each workspace.
 *
 * records.ts      what the records look like
 * rules.ts        what is allowed, as pure functions; arithmetic.ts how it reckons
 * lookup-tools.ts, order-tools.ts, item-tools.ts   the tools
 * shop-store.ts   every SQL statement of the tools; migrations/ their tables
 * keyed-calls.ts  one answer per idempotency key
 */
import { fileURLToPath } from "node:url"
import { create } from "@bufbuild/protobuf"
import { pino } from "pino"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import {
  type ExecuteToolResponse,
  ExecuteToolResponseSchema,
  Outcome,
  ToolProviderService,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { type DatabaseConfig, openDatabase } from "../../mesh/database.ts"
import { createVerifier } from "../../mesh/hop-tokens.ts"
import { callerOf, type ServiceName } from "../../mesh/identity.ts"
import { requireRole } from "../../mesh/interceptors.ts"
import type { MeshKeys } from "../../mesh/keys.ts"
import { type Handlers, type Runtime, route, type Service } from "../../mesh/service.ts"
import { createTracing } from "../../mesh/tracing.ts"
import { itemTools } from "./item-tools.ts"
import { answerOnce, findAnswer } from "./keyed-calls.ts"
import { lookupTools } from "./lookup-tools.ts"
import { orderTools } from "./order-tools.ts"
import { findTool, type Tool, ToolFailure } from "./tool.ts"

/** A provider is no service of the mesh: its name is that of its database, and of its tokens' audience. */
export const retailName = "retail" as string as ServiceName
export const retailMigrations = fileURLToPath(new URL("./migrations", import.meta.url))
export const retailTools: readonly Tool[] = [...lookupTools, ...orderTools, ...itemTools]

/** Knows the tools service by the mesh's keys, and signs nothing. */
export function retailRuntime(trusted: MeshKeys["trusted"], reached: Runtime["reached"]): Runtime {
  const refuse = () => {
    throw new Error("a provider signs nothing")
  }
  return {
    name: retailName,
    signer: { service: retailName, sign: refuse, signCalls: refuse, pass: refuse },
    verifier: createVerifier(retailName, trusted),
    tracer: createTracing(retailName).tracer,
    log: pino({ name: retailName, level: "error" }),
    reached,
  }
}

export function createRetail(config: DatabaseConfig, runtime: Runtime): Service {
  const database = openDatabase(config, { runtime, migrations: retailMigrations })
  const handlers = {
    listTools: () => ({ tools: retailTools.map(({ definition }) => definition) }),

    async executeTool(request, context) {
      const caller = callerOf(context)
      const { signal } = context
      const { idempotencyKey, arguments: args = {} } = request
      const { name, weight, run } = findTool(retailTools, request.tool, request.version)
      requireRole(caller.role, weight === "look" ? Role.VIEWER : Role.MEMBER)
      const call = { tool: name, idempotencyKey, argumentsDigest: digestOfStruct(args) }
      const response = await database.tenant(
        caller.workspaceId,
        (tx) => {
          const work = () => run(tx, args).then(toResult, toError)
          return weight === "look" ? work() : answerOnce(tx, call, work)
        },
        { signal, name },
      )
      if (weight !== "look") runtime.reached("after_effect")
      return response
    },

    async getOutcome(request, context) {
      const { workspaceId } = callerOf(context)
      const { signal } = context
      const { weight } = findTool(retailTools, request.tool)
      if (weight === "look") return { outcome: Outcome.NOT_EXECUTED }
      const response = await database.tenant(workspaceId, (tx) => findAnswer(tx, request), {
        signal,
      })
      // Without an answer the call may still be on its way here, so that "never will" is not known.
      return response === undefined
        ? { outcome: Outcome.UNKNOWN }
        : { outcome: Outcome.COMPLETED, response }
    },
  } satisfies Handlers<typeof ToolProviderService>
  return {
    routes: [route(ToolProviderService, handlers)],
    async start(signal) {
      await database.migrate(signal)
      await database.verify()
    },
    [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
  }
}

function toResult(value: Awaited<ReturnType<Tool["run"]>>): ExecuteToolResponse {
  return create(ExecuteToolResponseSchema, { outcome: { case: "result", value } })
}

function toError(failure: unknown): ExecuteToolResponse {
  if (!(failure instanceof ToolFailure)) throw failure
  const { reason, message } = failure
  return create(ExecuteToolResponseSchema, {
    outcome: { case: "error", value: { reason, message } },
  })
}
