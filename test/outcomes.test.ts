// The table of outcomes against the reasons that the orchestrator really gives, read from its source.
import { globSync, readFileSync } from "node:fs"
import path from "node:path"
import { expect, test } from "vitest"
import { outcomeTable } from "../mesh/outcomes.ts"

const root = path.resolve(import.meta.dirname, "..")
const source = globSync("services/orchestrator/**/*.ts", { cwd: root })
  .filter((file) => !file.endsWith(".test.ts") && !/harness|scripted-peers/.test(file))
  .map((file) => readFileSync(path.join(root, file), "utf8"))
  .join("\n")

/** Every literal that stands where a reason does. */
const given = new Set(
  [
    /\breason: "([a-z_]+)"/g,
    /\breason: \w+ === "([a-z_]+)" \?/g,
    /\bfailed\("([a-z_]+)"\)/g,
    /\brefuse\(change, stepIndex, "([a-z_]+)"\)/g,
    /#expire\("([a-z_]+)"\)/g,
    /settleCall\([^)]*?"([a-z_]+)"/g,
    /return (?:failures > [\w.]+ \? )?"((?:arguments|tool|approval|membership)_[a-z_]+)"/g,
    /\? "([a-z_]+)" : "run_ended"/g,
  ].flatMap((pattern) => [...source.matchAll(pattern)].map((match) => match[1] ?? "")),
)

const known = new Set(
  [outcomeTable.run, outcomeTable.toolCall].flatMap((table) =>
    Object.values(table).flatMap(({ reasons }) => Object.keys(reasons)),
  ),
)

test("the source gives reasons, and the pattern finds them", () => {
  expect([...given]).toEqual(
    expect.arrayContaining([
      "policy_denied",
      "approval_required",
      "approval_rejected",
      "approval_expired",
      "outcome_unknown",
      "deadline_exceeded",
      "membership_revoked",
      "arguments_invalid",
      "tool_failed",
      "cancelled",
    ]),
  )
})

test("every reason that the orchestrator gives has words", () => {
  expect([...given].filter((reason) => !known.has(reason))).toEqual([])
})

test("every refusal of the tools service has words for the failed call", () => {
  const refusals = /const refusals: ReadonlySet<Reason[^[]*\[([^\]]*)\]/s.exec(source)?.[1] ?? ""
  const reasons = [...refusals.matchAll(/"([A-Z_]+)"/g)].map((match) => match[1]?.toLowerCase())
  expect(reasons.length).toBeGreaterThan(5)
  const failed = Object.keys(outcomeTable.toolCall.FAILED.reasons)
  expect(reasons.filter((reason) => !failed.includes(reason ?? ""))).toEqual([])
})

test("every reason that the contract names for a run has words", () => {
  const proto = readFileSync(path.join(root, "proto/runwarden/orchestrator/v1/run.proto"), "utf8")
  const comment = /\/\/ Why the run ended badly(.*?)string reason/s.exec(proto)?.[1] ?? ""
  const reasons = [...comment.matchAll(/`([a-z]+_[a-z_]+|cancelled)`/g)]
    .map((match) => match[1] ?? "")
    .filter((name) => name !== "lower_snake_case")
  expect(reasons.length).toBeGreaterThan(8)
  const ofRuns = Object.values(outcomeTable.run).flatMap(({ reasons: all }) => Object.keys(all))
  expect(reasons.filter((reason) => !ofRuns.includes(reason))).toEqual([])
})
