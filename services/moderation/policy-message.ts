import { clone, create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import {
  type ActivePolicy,
  ActivePolicySchema,
  type PolicyVersion,
  PolicyVersionSchema,
  type Rule,
} from "../../gen/runwarden/moderation/v1/policy_pb.ts"
import type { Tx } from "../../mesh/database.ts"
import { notFound } from "../../mesh/errors.ts"
import type { ShippedPolicies } from "./default-policy.ts"
import { splitVersion } from "./policy-book.ts"
import { type ActiveRow, findVersion, type VersionRow } from "./policy-store.ts"
import { readRules } from "./rule-message.ts"

/** A version with its rules, shipped or the workspace's own. Throws NOT_FOUND. */
export async function findPolicy(
  tx: Tx,
  shipped: ShippedPolicies,
  workspaceId: string,
  policyVersion: string,
): Promise<PolicyVersion> {
  const found = shipped.find(({ message }) => message.policyVersion === policyVersion)
  if (found !== undefined) {
    const message = clone(PolicyVersionSchema, found.message)
    message.workspaceId = workspaceId
    return message
  }
  const parts = splitVersion(policyVersion)
  const row =
    parts === undefined ? undefined : await findVersion(tx, workspaceId, parts.name, parts.version)
  if (row === undefined) throw notFound("policy version", policyVersion)
  return versionMessage(workspaceId, row, undefined, readRules(row.rules))
}

/** A row as the message. */
export function versionMessage(
  workspaceId: string,
  row: VersionRow,
  active: ActiveRow | undefined,
  rules: readonly Rule[] = [],
): PolicyVersion {
  const policyVersion = `${row.name}@${row.version}`
  return create(PolicyVersionSchema, {
    policyVersion,
    workspaceId,
    name: row.name,
    version: row.version,
    description: row.description,
    rules: [...rules],
    digest: row.digest,
    active: active?.policy_version === policyVersion,
    creatorId: row.creator,
    createTime: timestampFromDate(row.create_time),
  })
}

/** The active policy; without a row, the default that nobody activated. */
export function activePolicy(policy: PolicyVersion, active: ActiveRow | undefined): ActivePolicy {
  policy.active = true
  return create(ActivePolicySchema, {
    policy,
    etag: etagOf(active),
    ...(active === undefined
      ? {}
      : { activatorId: active.activator, updateTime: timestampFromDate(active.update_time) }),
  })
}

/** The etag of an activation; also of there being none. */
function etagOf(active: ActiveRow | undefined): string {
  return `"${active?.revision ?? 0}"`
}

/** The revision that an etag names; one that exists nowhere for an etag that this service never gave. */
export function revisionOf(etag: string): number {
  const [, revision] = /^"(\d{1,15})"$/.exec(etag) ?? []
  return revision === undefined ? -1 : Number(revision)
}
