/**
 * A lock file of tools: the definitions that somebody has looked at, to be kept beside the code that
 * uses them and compared with what is in use.
 */
import { z } from "zod"

export interface LockedTool {
  readonly name: string
  readonly version: string
  /** SHA-256 (hex) of the definition. */
  readonly digest: string
  readonly riskClass: string
  readonly effect: string
}

/** A tool that is not as the lock says. */
export interface Drift {
  readonly name: string
  readonly kind: "changed" | "missing" | "not_locked"
  readonly locked?: LockedTool
  readonly found?: LockedTool
}

const lockFile = z.strictObject({
  lockVersion: z.literal(1),
  tools: z.record(
    z.string(),
    z.strictObject({
      version: z.string(),
      digest: z.string().regex(/^[0-9a-f]{64}$/),
      riskClass: z.string(),
      effect: z.string(),
    }),
  ),
})

/** The text of a lock file: sorted by name, a line for each tool, so that differences read well. */
export function writeLock(tools: readonly LockedTool[]): string {
  const sorted = tools.toSorted((one, other) => (one.name < other.name ? -1 : 1))
  const lines = sorted.map(
    ({ name, ...rest }) => `    ${JSON.stringify(name)}: ${JSON.stringify(rest)}`,
  )
  return `{\n  "lockVersion": 1,\n  "tools": {\n${lines.join(",\n")}\n  }\n}\n`
}

/** Reads a lock file. Throws an Error that names the place of what is wrong. */
export function readLock(text: string): readonly LockedTool[] {
  const read = lockFile.safeParse(JSON.parse(text))
  if (read.success) {
    return Object.entries(read.data.tools).map(([name, tool]) => ({ name, ...tool }))
  }
  const [issue] = read.error.issues
  throw new Error(`${issue?.path.join(".")}: ${issue?.message}`)
}

/** What is in use and not as locked, by name. A tool that is not in the lock counts where asked for. */
export function compareLock(
  locked: readonly LockedTool[],
  found: readonly LockedTool[],
): readonly Drift[] {
  const byName = new Map(found.map((tool) => [tool.name, tool]))
  const known = new Set(locked.map(({ name }) => name))
  const drifts = locked.flatMap((tool): readonly Drift[] => {
    const now = byName.get(tool.name)
    if (now === undefined) return [{ name: tool.name, kind: "missing", locked: tool }]
    if (now.digest === tool.digest) return []
    return [{ name: tool.name, kind: "changed", locked: tool, found: now }]
  })
  const added = found
    .filter(({ name }) => !known.has(name))
    .map((tool): Drift => ({ name: tool.name, kind: "not_locked", found: tool }))
  return [...drifts, ...added].toSorted((one, other) => (one.name < other.name ? -1 : 1))
}
