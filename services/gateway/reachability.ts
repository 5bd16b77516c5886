import { create } from "@bufbuild/protobuf"
import type { Transport } from "@connectrpc/connect"
import { Health, HealthCheckRequestSchema } from "../../gen/grpc/health/v1/health_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { reasonOf } from "../../mesh/errors.ts"
import { actingAs, type ServiceName, serviceNames, serviceSubject } from "../../mesh/identity.ts"

const timeoutMs = 1_000
/** Anybody may ask for the health: however many do, each service is asked once in this time. */
const holdMs = 1_000

/**
 * Finds the names of the services, or `database`, that do not answer now. A service that answers
 * anything at all is there: only silence counts.
 */
export function createReachability(deps: {
  readonly database: Database
  readonly upstream: (service: ServiceName) => Transport
}): () => Promise<readonly string[]> {
  let held: { readonly away: Promise<readonly string[]>; readonly until: number } | undefined

  async function find(): Promise<readonly string[]> {
    const peers = serviceNames.filter((name) => name !== "gateway")
    const answers = await Promise.all([
      isDatabaseThere(deps.database).then((isThere) => ({ name: "database", isThere })),
      ...peers.map(async (name) => ({ name, isThere: await isThere(deps.upstream(name)) })),
    ])
    return answers.filter((answer) => !answer.isThere).map(({ name }) => name)
  }

  return () => {
    const now = performance.now()
    if (held === undefined || held.until <= now) held = { away: find(), until: now + holdMs }
    return held.away
  }
}

async function isDatabaseThere(database: Database): Promise<boolean> {
  try {
    const signal = AbortSignal.timeout(timeoutMs)
    await database.shared((tx) => tx.query("select 1"), { signal, name: "health" })
    return true
  } catch {
    return false
  }
}

async function isThere(transport: Transport): Promise<boolean> {
  const { contextValues } = actingAs(serviceSubject("gateway", ""))
  const request = create(HealthCheckRequestSchema)
  try {
    await transport.unary(
      Health.method.check,
      undefined,
      timeoutMs,
      undefined,
      request,
      contextValues,
    )
    return true
  } catch (error) {
    const reason = reasonOf(error)
    return (
      reason !== undefined && reason !== "DEPENDENCY_UNAVAILABLE" && reason !== "DEADLINE_EXCEEDED"
    )
  }
}
