import { create } from "@bufbuild/protobuf"
import { timestampFromMs } from "@bufbuild/protobuf/wkt"
import { expect, test } from "vitest"
import { Verdict } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { type Approval, ApprovalSchema } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { digestOf } from "../mesh/canonical.ts"
import { checkDigest } from "./approval-text.ts"

const expiresAtMs = 1_795_368_725_874

function approval(changes: Partial<Approval> = {}): Approval {
  const made = create(ApprovalSchema, {
    workspaceId: "w",
    runId: "r",
    stepIndex: 1,
    tool: "projects/project.archive",
    definitionDigest: "d",
    arguments: { amount: 82_000 },
    policyVersion: "default@1",
    verdict: Verdict.ALLOWED,
    requesterId: "q",
    expireTime: timestampFromMs(expiresAtMs),
  })
  made.digest = digestOf({
    workspace: "w",
    run: "r",
    step: 1,
    tool: "projects/project.archive",
    definition_digest: "d",
    arguments: { amount: 82_000 },
    policy_version: "default@1",
    verdict: "allowed",
    requester: "q",
    expiry: new Date(expiresAtMs).toISOString(),
  })
  return Object.assign(made, changes)
}

test("a digest of what is shown is accepted", () => {
  expect(() => checkDigest(approval())).not.toThrow()
})

test.each<[string, Partial<Approval>]>([
  ["arguments", { arguments: { amount: 820_000 } }],
  ["another argument", { arguments: { amount: 82_000, to: "me" } }],
  ["tool", { tool: "projects/project.delete" }],
  ["definition", { definitionDigest: "e" }],
  ["verdict", { verdict: Verdict.FLAGGED }],
  ["policy", { policyVersion: "default@2" }],
  ["requester", { requesterId: "p" }],
  ["run", { runId: "s" }],
  ["step", { stepIndex: 2 }],
  ["workspace", { workspaceId: "v" }],
  ["expiry", { expireTime: timestampFromMs(expiresAtMs + 1) }],
  ["digest", { digest: "" }],
])("anything else is refused: %s", (_, changes) => {
  expect(() => checkDigest(approval(changes))).toThrow("is not that of what is shown")
})

test("missing arguments have no digest", () => {
  const bare = approval()
  delete bare.arguments
  expect(() => checkDigest(bare)).toThrow("is not that of what is shown")
})
