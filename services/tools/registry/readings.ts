/**
 * What was read in the last answer of each provider. The same definition comes again with every
 * refresh, and compiling its schemas takes milliseconds each time.
 */
import { createHash } from "node:crypto"
import { toBinary } from "@bufbuild/protobuf"
import {
  type ToolDefinition,
  ToolDefinitionSchema,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { type AcceptedDefinition, type RefusedDefinition, readDefinition } from "./definition.ts"

type Reading = AcceptedDefinition | RefusedDefinition

export interface Readings {
  /** Reads an answer; only what was not in the provider's last one is read anew. */
  of(provider: string, tools: readonly ToolDefinition[]): readonly Reading[]
}

export function createReadings(): Readings {
  const byProvider = new Map<string, ReadonlyMap<string, Reading>>()
  return {
    of(provider, tools) {
      const last = byProvider.get(provider)
      const kept = new Map<string, Reading>()
      byProvider.set(provider, kept)
      return tools.map((tool) => {
        const key = keyOf(tool)
        if (key === undefined) return readDefinition(tool)
        const reading = last?.get(key) ?? readDefinition(tool)
        kept.set(key, reading)
        return reading
      })
    },
  }
}

/** Of what was sent, byte by byte; undefined for what has no bytes, as it may be within a process. */
function keyOf(tool: ToolDefinition): string | undefined {
  try {
    return createHash("sha256").update(toBinary(ToolDefinitionSchema, tool)).digest("base64")
  } catch {
    return undefined
  }
}
