// The runwarden command against a whole mesh: who may answer approvals, and for whom.
import { expect, test } from "vitest"
import { useCliFixture } from "./cli-process.ts"

const { cli, json, write } = useCliFixture()

test("rules are stored, shown, put in force and rolled back", async () => {
  const shown = await cli(["approval-rule", "show"], "viewer")
  expect(shown.stdout).toMatch(/version +default@1/)
  expect(shown.stdout).toMatch(/default +everything +1 × approver, not the requester +1 d/)
  const file = "examples/approval-rules.yaml"
  const refused = await cli(["approval-rule", "create", "-f", file], "approver")
  expect(refused.stderr).toContain("(ROLE_TOO_LOW)")
  const created = await cli(["approval-rule", "create", "--file", file], "admin")
  expect(created).toMatchObject({ code: 0 })
  expect(created.stderr).toContain("npx runwarden approval-rule activate rules@1")
  const { versions } = await json(["approval-rule", "list"])
  expect(versions).toMatchObject([{ ruleVersion: "rules@1" }])
  expect((await cli(["approval-rule", "activate", "rules@1"], "admin")).code).toBe(0)
  const active = await cli(["approval-rule", "show"])
  expect(active.stdout).toMatch(/irreversible +unsafe +2 × admin, not the requester +4 h/)
  await cli(["approval-rule", "activate", "default@1"], "admin")
  expect((await json(["approval-rule", "show"])).activeRules.version.ruleVersion).toBe("default@1")
  const broken = write("rules.yaml", "rules:\n  - id: a\n    quorum: many\n")
  const faulty = await cli(["approval-rule", "create", "-f", broken], "admin")
  expect(faulty.stderr).toContain("line 3: quorum is a whole number")
})

test("a delegation is made, listed and revoked", async () => {
  const added = await json(["member", "add", "Deputy"], "admin")
  const { actorId } = added.member
  const made = await cli(["delegation", "create", actorId, "--for", "8h", "-q"], "approver")
  expect(made).toMatchObject({ code: 0 })
  const id = made.stdout.trim()
  expect((await cli(["delegation", "list"], "viewer")).stdout).toContain(id)
  expect((await cli(["delegation", "revoke", id], "member")).stderr).toContain("(ROLE_TOO_LOW)")
  const revoked = await cli(["delegation", "revoke", id], "approver")
  expect(revoked.stdout).toMatch(/in force +no/)
  expect((await json(["delegation", "list"])).delegations ?? []).toEqual([])
  expect((await json(["delegation", "list", "--all"])).delegations).toHaveLength(1)
})
