import { create, type JsonObject } from "@bufbuild/protobuf"
import { expect, test } from "vitest"
import { type Approval, ApprovalSchema } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { digestOf } from "../mesh/canonical.ts"
import { visibleJson } from "../mesh/visible-text.ts"
import { checkDigest } from "./approval-text.ts"

const question: JsonObject = {
  tool: "projects/project.archive",
  arguments: { amount: 82_000, to: "Ann\u202e", tags: [] },
  verdict: "allowed",
}

function approval(preview: string, digest = digestOf(question)): Approval {
  return create(ApprovalSchema, { digest, preview })
}

test("the preview is what the digest covers, in whatever order and however it is written", () => {
  const { tool, arguments: args, verdict } = question
  for (const shown of [
    visibleJson(question),
    JSON.stringify(question),
    JSON.stringify({ verdict, arguments: args, tool }),
  ]) {
    expect(() => checkDigest(approval(shown))).not.toThrow()
  }
})

test.each<[string, string, string?]>([
  ["an amount", visibleJson({ ...question, arguments: { amount: 820_000 } })],
  ["one argument more", visibleJson({ ...question, arguments: { amount: 82_000, x: 1 } })],
  ["another tool", visibleJson({ ...question, tool: "projects/project.delete" })],
  ["something hidden that is not there", visibleJson(question).replace("\\u202e", "")],
  ["one member less", visibleJson({ tool: "projects/project.archive" })],
  ["no JSON", "Archive a project?"],
  ["nothing", ""],
  ["nothing, for nothing", "", ""],
  ["another digest", visibleJson(question), "0".repeat(64)],
])("anything else is not confirmed: %s", (_, shown, digest) => {
  expect(() => checkDigest(approval(shown, digest))).toThrow("is not that of what is shown")
})
