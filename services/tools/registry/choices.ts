/**
 * What workspaces have chosen of versions of tools, remembered for a second.
 *
 * 1. Whoever asks at the same moment shares one statement, whichever workspaces they are of.
 * 2. A choice that is made here counts here at once, and elsewhere within a second.
 */
import type { Database } from "../../../mesh/database.ts"
import { createExpiringMap, monotonicClock } from "../../../mesh/expiring-map.ts"
import { createGroup } from "../../../mesh/group.ts"
import { type ChoiceRow, choicesStatement } from "./activation-store.ts"

/** What one workspace has chosen; most have nothing. */
export interface Choices {
  /** The version of a tool that it uses, by the tool's full name; absent for the deployment's. */
  readonly versions: ReadonlyMap<string, string>
  /** Digests of all that it has ever activated. */
  readonly reviewed: ReadonlySet<string>
}

export interface ChoiceBook extends AsyncDisposable {
  known(workspaceId: string): Choices | undefined
  of(workspaceId: string): Promise<Choices>
  forget(workspaceId: string): void
}

const choiceMs = 1_000
const maxWorkspaces = 10_000
const none: Choices = { versions: new Map(), reviewed: new Set() }

export function createChoiceBook(database: Pick<Database, "batch">): ChoiceBook {
  const remembered = createExpiringMap<Choices>(monotonicClock, maxWorkspaces)
  const group = createGroup<string, Choices>({
    name: "tool choices",
    async run(items) {
      const workspaceIds = [...new Set(items)]
      const rows = await database.batch<ChoiceRow>(workspaceIds, choicesStatement, [workspaceIds])
      const found = Map.groupBy(rows, (row) => row.workspace_id)
      return items.map((workspaceId) => toChoices(found.get(workspaceId)))
    },
  })
  return {
    known: (workspaceId) => remembered.get(workspaceId),
    async of(workspaceId) {
      const known = remembered.get(workspaceId)
      if (known !== undefined) return known
      const choices = await group.add(workspaceId)
      remembered.set(workspaceId, choices, performance.now() + choiceMs)
      return choices
    },
    forget: (workspaceId) => remembered.set(workspaceId, none, 0),
    [Symbol.asyncDispose]: () => group[Symbol.asyncDispose](),
  }
}

function toChoices(rows: readonly ChoiceRow[] | undefined): Choices {
  if (rows === undefined) return none
  const chosen = rows.filter(({ version }) => version !== "")
  return {
    versions: new Map(chosen.map((row) => [`${row.provider}/${row.name}`, row.version])),
    reviewed: new Set(rows.flatMap(({ digests }) => digests)),
  }
}
