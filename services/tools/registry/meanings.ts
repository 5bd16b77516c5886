/**
 * What a tool's name means in a workspace: the version that the workspace has chosen, or else the
 * one that its deployment uses.
 *
 * 1. A name without a version means what the workspace has chosen, also where the deployment uses
 *    none; a version that its provider does not offer any more is still what it means, and cannot run.
 * 2. A version that nobody has looked at may be read, and not run, also where a plan names it.
 */
import { RunwardenError } from "../../../mesh/errors.ts"
import type { FoundTool } from "./catalogue.ts"
import type { ChoiceBook, Choices } from "./choices.ts"
import type { Registry } from "./registry.ts"
import { isInUse, isReviewed } from "./tool-review.ts"

/** A tool as a workspace sees it. */
export interface Meaning extends FoundTool {
  readonly isInUse: boolean
  readonly mayRun: boolean
}

export interface Meanings {
  /** What a name means, where that is remembered. */
  known(workspaceId: string, name: string, version: string): Meaning | undefined
  /** What a name means now; undefined when it means nothing. Throws AMBIGUOUS_TOOL. */
  resolve(
    workspaceId: string,
    name: string,
    version: string,
    signal: AbortSignal,
  ): Promise<Meaning | undefined>
}

export function createMeanings(
  registry: Pick<Registry, "known" | "resolve">,
  book: Pick<ChoiceBook, "known" | "of">,
): Meanings {
  return {
    known(workspaceId, name, version) {
      const choices = book.known(workspaceId)
      if (choices === undefined) return undefined
      if (version === "" && chosenAs(choices, name).length > 0) return undefined
      const found = registry.known(name, version)
      return found === undefined ? undefined : meaningOf(found, choices)
    },

    async resolve(workspaceId, name, version, signal) {
      const choices = await book.of(workspaceId)
      const chosen = version === "" ? chosenAs(choices, name) : []
      if (chosen.length === 0) {
        const found = await registry.resolve(name, version, signal)
        return found === undefined ? undefined : meaningOf(found, choices)
      }
      const used = name.includes("/") ? undefined : await registry.resolve(name, "", signal)
      const fullName = onlyOne(name, used === undefined ? chosen : [...chosen, used.tool.fullName])
      const found = await registry.resolve(fullName, choices.versions.get(fullName) ?? "", signal)
      return found === undefined ? undefined : meaningOf(found, choices)
    },
  }
}

/** Full names of the tools that a workspace has chosen a version of, and that a name may mean. */
function chosenAs({ versions }: Choices, name: string): readonly string[] {
  if (versions.size === 0) return []
  if (name.includes("/")) return versions.has(name) ? [name] : []
  return [...versions.keys()].filter((fullName) => fullName.endsWith(`/${name}`))
}

function onlyOne(tool: string, fullNames: readonly string[]): string {
  const [first, ...others] = new Set(fullNames)
  if (first !== undefined && others.length === 0) return first
  const candidates = [first, ...others].sort().join(", ")
  throw new RunwardenError("AMBIGUOUS_TOOL", { tool, candidates })
}

function meaningOf({ row, tool }: FoundTool, choices: Choices): Meaning {
  const mayRun = row.offered && isReviewed(row, choices) // (2)
  return { row, tool, isInUse: isInUse(row, choices), mayRun }
}
