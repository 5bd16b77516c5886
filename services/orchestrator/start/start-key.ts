import { createHash } from "node:crypto"
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { RunService } from "../../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import type { StartRunRequest } from "../../../gen/runwarden/orchestrator/v1/start_run_pb.ts"
import { canonicalJson } from "../../../mesh/canonical.ts"
import type { RequestKey } from "../../../mesh/request-id.ts"

const { startRun } = RunService.method
const method = `${startRun.parent.typeName}/${startRun.name}`

/**
 * The key of a StartRun by all that it says, whatever fields it has: two requests have the same one
 * where they say the same, in whatever order. `texts` are the canonical arguments of its steps, made
 * once for all who need them: a general key would make them anew, and all of the message with them.
 */
export function startKeyOf(request: StartRunRequest, texts: readonly string[]): RequestKey {
  const { plan, ...others } = request
  const steps = (plan?.steps ?? []).map(({ arguments: _, ...step }) => toJson(step))
  const said = canonicalJson([toJson(others), plan?.name ?? "", steps, [...texts]])
  return {
    workspaceId: request.workspaceId,
    requestId: request.requestId,
    method,
    sha256: createHash("sha256").update(said).digest("hex"),
  }
}

/** A message as JSON that keeps every value apart from every other; not the form of the wire. */
function toJson(value: unknown): JsonValue {
  if (typeof value === "bigint") return `${value}n`
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64")
  if (Array.isArray(value)) return value.map(toJson)
  if (typeof value !== "object" || value === null) return value as JsonValue
  const members: JsonObject = {}
  for (const [name, member] of Object.entries(value)) {
    if (member !== undefined && name !== "$unknown") members[name] = toJson(member)
  }
  return members
}
