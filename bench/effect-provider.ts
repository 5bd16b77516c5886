/**
 * Two providers of the same tools, whose one effect is a row in a database of their own: `each`
 * commits every effect by itself, `grouped` commits together those that are due at the same moment.
 * Either answers when its row is on disk.
 */
import type { MessageInitShape } from "@bufbuild/protobuf"
import pg from "pg"
import { pino } from "pino"
import { Effect, RiskClass, type ToolDefinitionSchema } from "../gen/runwarden/tools/v1/tool_pb.ts"
import { Outcome, ToolProviderService } from "../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { RunwardenError } from "../mesh/errors.ts"
import { createGroup } from "../mesh/group.ts"
import { createVerifier } from "../mesh/hop-tokens.ts"
import { callerOf, type ServiceName } from "../mesh/identity.ts"
import type { MeshKeys } from "../mesh/keys.ts"
import { goOn } from "../mesh/kill-points.ts"
import type { Handlers, Runtime } from "../mesh/service.ts"
import { route, type Service } from "../mesh/service.ts"
import { createTracing } from "../mesh/tracing.ts"

/** How a provider commits; also its name. */
export type Grouping = "each" | "grouped"

export const groupings: readonly Grouping[] = ["each", "grouped"]

export const createEffects = `create table if not exists effects (
  workspace_id uuid not null, run_id uuid not null, step integer not null, payload text not null,
  create_time timestamptz not null default now(), primary key (workspace_id, run_id, step))`

interface EffectRow {
  readonly workspaceId: string
  readonly runId: string
  readonly step: number
  readonly payload: string
}

/** Writes one effect; a repeated one changes nothing. */
interface EffectWriter extends AsyncDisposable {
  write(row: EffectRow): Promise<void>
}

const properties = {
  step: { type: "integer", minimum: 0 },
  amount: { type: "integer", minimum: 0 },
  note: { type: "string", maxLength: 400 },
}

const tools: readonly MessageInitShape<typeof ToolDefinitionSchema>[] = [
  tool("record.write", RiskClass.LOW),
  tool("record.release", RiskClass.HIGH),
]

export interface EffectProvider {
  readonly service: Service
  readonly runtime: Runtime
}

/** A provider that knows the tools service by the mesh's keys. */
export function createEffectProvider(
  grouping: Grouping,
  databaseUrl: string,
  trusted: MeshKeys["trusted"],
): EffectProvider {
  const writer =
    grouping === "each" ? createEachWriter(databaseUrl) : createGroupedWriter(databaseUrl)
  const implementation = {
    listTools: () => ({ tools: [...tools] }),
    async executeTool(request, context) {
      if (!tools.some(({ name }) => name === request.tool)) {
        throw new RunwardenError("UNKNOWN_TOOL", { field: "tool", tool: request.tool })
      }
      const { arguments: args = {}, runId } = request
      const { workspaceId } = callerOf(context)
      const step = Number(args.step)
      await writer.write({ workspaceId, runId, step, payload: JSON.stringify(args) })
      return { outcome: { case: "result", value: { step, is_written: true } } }
    },
    getOutcome: () => ({ outcome: Outcome.UNKNOWN }),
  } satisfies Handlers<typeof ToolProviderService>
  return {
    runtime: providerRuntime(grouping, trusted),
    service: {
      routes: [route(ToolProviderService, implementation)],
      async start() {},
      [Symbol.asyncDispose]: () => writer[Symbol.asyncDispose](),
    },
  }
}

function createEachWriter(url: string): EffectWriter {
  const pool = new pg.Pool({ connectionString: url, max: 16 })
  const text =
    "insert into effects (workspace_id, run_id, step, payload) values ($1, $2, $3, $4) on conflict do nothing"
  return {
    async write({ workspaceId, runId, step, payload }) {
      await pool.query({ name: "effect", text, values: [workspaceId, runId, step, payload] })
    },
    [Symbol.asyncDispose]: () => pool.end(),
  }
}

function createGroupedWriter(url: string): EffectWriter {
  const pool = new pg.Pool({ connectionString: url, max: 2 })
  const text = `insert into effects (workspace_id, run_id, step, payload)
    select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[]) on conflict do nothing`
  const group = createGroup<EffectRow, undefined>({
    name: "effects",
    async run(rows) {
      const values = [
        rows.map((row) => row.workspaceId),
        rows.map((row) => row.runId),
        rows.map((row) => row.step),
        rows.map((row) => row.payload),
      ]
      await pool.query({ name: "effects", text, values })
      return rows.map(() => undefined)
    },
  })
  return {
    write: (row) => group.add(row),
    async [Symbol.asyncDispose]() {
      await group[Symbol.asyncDispose]()
      await pool.end()
    },
  }
}

function providerRuntime(grouping: Grouping, trusted: MeshKeys["trusted"]): Runtime {
  // A provider is no service of the mesh and signs nothing: its name is the audience of its tokens.
  const name = grouping as string as ServiceName
  const refuse = () => {
    throw new Error("a provider signs nothing")
  }
  return {
    name,
    signer: { service: name, sign: refuse, signCalls: refuse, pass: refuse },
    verifier: createVerifier(name, trusted),
    tracer: createTracing(name).tracer,
    log: pino({ level: "warn" }),
    reached: goOn,
  }
}

function tool(name: string, riskClass: RiskClass): MessageInitShape<typeof ToolDefinitionSchema> {
  return {
    name,
    version: "1.0.0",
    title: name,
    description: "Writes one row.",
    riskClass,
    effect: Effect.KEYED,
    inputSchema: object(properties),
    outputSchema: object({ step: properties.step, is_written: { type: "boolean" } }),
  }
}

function object(members: Readonly<Record<string, Readonly<Record<string, string | number>>>>) {
  const required = Object.keys(members)
  return { type: "object", properties: members, required, additionalProperties: false }
}
