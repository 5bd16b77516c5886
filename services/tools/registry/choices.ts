/**
 * What workspaces have chosen of versions of tools, and which providers they have added, remembered
 * for a second.
 *
 * 1. Whoever asks at the same moment shares one statement, whichever workspaces they are of.
 * 2. A choice that is made here counts here at once, and elsewhere within a second.
 */
import type { Database } from "../../../mesh/database.ts"
import { createExpiringMap, monotonicClock } from "../../../mesh/expiring-map.ts"
import { createGroup } from "../../../mesh/group.ts"
import { type ChoiceRow, choicesStatement, deploymentId } from "./activation-store.ts"

/** What one workspace has chosen; most have nothing. */
export interface Choices {
  /** The version of a tool that it uses, by the tool's full name; absent for the deployment's. */
  readonly versions: ReadonlyMap<string, string>
  /** Digests of all that it has ever activated. */
  readonly reviewed: ReadonlySet<string>
  /** The providers that it added for itself, by their names. */
  readonly providers: ReadonlyMap<string, OwnProviderRef>
}

/** A workspace's own provider as it is now. */
export interface OwnProviderRef {
  readonly providerId: string
  readonly revision: number
}

export interface ChoiceBook extends AsyncDisposable {
  known(workspaceId: string): Choices | undefined
  of(workspaceId: string): Promise<Choices>
  forget(workspaceId: string): void
}

const choiceMs = 1_000
const maxWorkspaces = 10_000
const none: Choices = { versions: new Map(), reviewed: new Set(), providers: new Map() }

/** `configured` are the names of the deployment's providers. */
export function createChoiceBook(
  database: Pick<Database, "batch">,
  configured: ReadonlySet<string>,
): ChoiceBook {
  const remembered = createExpiringMap<Choices>(monotonicClock, maxWorkspaces)
  const group = createGroup<string, Choices>({
    name: "tool choices",
    async run(items) {
      const workspaceIds = [...new Set(items)]
      const rows = await database.batch<ChoiceRow>(workspaceIds, choicesStatement, [workspaceIds])
      const found = Map.groupBy(rows, (row) => row.workspace_id)
      return items.map((workspaceId) => toChoices(found.get(workspaceId), configured))
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

function toChoices(
  rows: readonly ChoiceRow[] | undefined,
  configured: ReadonlySet<string>,
): Choices {
  if (rows === undefined) return none
  const own = rows.filter(({ revision }) => revision !== null)
  // A name is the deployment's where it has such a provider, whoever had it when this was chosen.
  const chosen = rows.filter(
    ({ revision, version, provider, provider_id }) =>
      revision === null &&
      version !== "" &&
      (provider_id === deploymentId) === configured.has(provider),
  )
  return {
    providers: new Map(
      own.map(({ provider, provider_id, revision }) => [
        provider,
        { providerId: provider_id, revision: revision ?? 0 },
      ]),
    ),
    versions: new Map(chosen.map((row) => [`${row.provider}/${row.name}`, row.version])),
    reviewed: new Set(rows.flatMap(({ digests }) => digests)),
  }
}
