/**
 * What people decide of versions of tools: which one their workspace uses.
 *
 * 1. An activation names the digest of the definition that was looked at: what it says is what runs.
 * 2. Nothing is activated that its provider does not offer.
 * 3. Every decision is a row of its own behind the last one; of two at the same time one is told so.
 */
import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import {
  DefinitionChangeKind,
  type ToolActivation,
  ToolActivationSchema,
  type ToolVersion,
  ToolVersionSchema,
} from "../../../gen/runwarden/tools/v1/tool_version_pb.ts"
import type { Tx } from "../../../mesh/database.ts"
import { notFound, RunwardenError } from "../../../mesh/errors.ts"
import {
  type ActivationRow,
  insertActivation,
  lastActivation,
  type ToolKey,
} from "./activation-store.ts"
import type { Choices } from "./choices.ts"
import { type Change, changesBetween } from "./definition-change.ts"
import { fullNameOf } from "./pinned-tool.ts"
import { toTool } from "./tool-message.ts"
import { findVersion, type ToolRow } from "./tool-store.ts"

/** Who decides, and for which workspace. */
export interface Decider {
  readonly workspaceId: string
  readonly actorId: string
}

export async function activate(
  tx: Tx,
  { workspaceId, actorId }: Decider,
  wanted: ToolKey & { readonly version: string; readonly digest: string },
): Promise<ToolActivation> {
  const row = await findVersion(tx, wanted)
  if (row === undefined) {
    throw notFound("tool version", `${fullNameOf(wanted)}@${wanted.version}`)
  }
  if (row.digest !== wanted.digest) throw changed(wanted) // (1)
  requireOffered(row)
  const last = await lastActivation(tx, workspaceId, wanted)
  return append(tx, { ...wanted, workspaceId, activator_id: actorId, last })
}

/** Undoes the last decision. `etag` is the one that is meant; empty for whichever it is. */
export async function rollBack(
  tx: Tx,
  { workspaceId, actorId }: Decider,
  tool: ToolKey,
  etag: string,
): Promise<ToolActivation> {
  const last = await lastActivation(tx, workspaceId, tool)
  if (last === undefined) throw notFound("activation", fullNameOf(tool))
  if (etag !== "" && etag !== etagOf(last)) throw changed(tool)
  const { previous_version: version, previous_digest: digest } = last
  if (version !== "") {
    const row = await findVersion(tx, { ...tool, version })
    if (row === undefined) throw notFound("tool version", `${fullNameOf(tool)}@${version}`)
    requireOffered(row)
  }
  return append(tx, { ...tool, version, digest, workspaceId, activator_id: actorId, last })
}

async function append(
  tx: Tx,
  activation: Parameters<typeof insertActivation>[1],
): Promise<ToolActivation> {
  const row = await insertActivation(tx, activation)
  if (row === undefined) throw changed(activation) // (3)
  return toActivation(row)
}

function requireOffered(row: ToolRow): void {
  if (row.offered) return
  throw new RunwardenError("ILLEGAL_TRANSITION", {
    resource: "tool version",
    current: "withdrawn by its provider",
    requested: "active",
    allowed: "none",
  })
}

function changed(tool: ToolKey): RunwardenError {
  return new RunwardenError("ETAG_MISMATCH", { resource: "tool", id: fullNameOf(tool) })
}

/** The version that a workspace uses, among those of one tool. */
export function isInUse(row: ToolRow, { versions }: Choices): boolean {
  const chosen = versions.get(fullNameOf(row))
  return chosen === undefined ? row.active : chosen === row.version && row.offered
}

/** Whether a workspace may use a version: nobody need look at it, or somebody has. */
export function isReviewed(row: ToolRow, { reviewed }: Choices): boolean {
  return row.trusted || reviewed.has(row.digest)
}

/** A version as a workspace sees it, beside the one that it is compared with. */
export function toVersion(row: ToolRow, choices: Choices, base: ToolRow | undefined): ToolVersion {
  const isOther = base !== undefined && base.version !== row.version
  const changes = isOther ? changesBetween(base.definition, row.definition) : []
  return create(ToolVersionSchema, {
    tool: { ...toTool(row), active: isInUse(row, choices) },
    offered: row.offered,
    reviewed: isReviewed(row, choices),
    comparedWith: isOther ? base.version : "",
    changeKind: worst(changes),
    changes: changes.map((change) => ({ ...change, kind: kinds[change.kind] })),
  })
}

const kinds: Readonly<Record<Change["kind"], DefinitionChangeKind>> = {
  compatible: DefinitionChangeKind.COMPATIBLE,
  breaking: DefinitionChangeKind.BREAKING,
}

function worst(changes: readonly Change[]): DefinitionChangeKind {
  if (changes.some(({ kind }) => kind === "breaking")) return DefinitionChangeKind.BREAKING
  if (changes.length > 0) return DefinitionChangeKind.COMPATIBLE
  return DefinitionChangeKind.UNSPECIFIED
}

function toActivation(row: ActivationRow): ToolActivation {
  return create(ToolActivationSchema, {
    fullName: fullNameOf(row),
    version: row.version,
    definitionDigest: row.digest,
    previousVersion: row.previous_version,
    activatorId: row.activator_id,
    updateTime: timestampFromDate(row.create_time),
    etag: etagOf(row),
  })
}

function etagOf({ revision }: ActivationRow): string {
  return String(revision)
}
