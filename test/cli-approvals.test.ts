// The runwarden command against a whole mesh: who may answer approvals, and for whom.
import { expect, test } from "vitest"
import { until } from "../mesh/testing.ts"
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

test("an approval is answered by a delegate, by breaking the glass, and by as many as it takes", async () => {
  const rules = write(
    "quorum.json",
    JSON.stringify({
      rules: [{ id: "two", quorum: 2, delegation_allowed: true, break_glass_allowed: true }],
    }),
  )
  const { version } = await json(["approval-rule", "create", "-f", rules], "admin")
  await cli(["approval-rule", "activate", version.ruleVersion], "admin")
  const plan = ["run", "start", "-f", "examples/plans/archive-project.yaml", "--wait", "-o", "json"]
  const waiting = async () => {
    const { runId } = JSON.parse((await cli(plan)).stdout).run
    const { approvals } = await json(["approval", "list", "--run", runId])
    return { runId, id: approvals[0].approvalId as string }
  }
  const ended = (runId: string) =>
    until(async () => {
      const { run } = await json(["run", "get", runId])
      return run.state === "RUN_STATE_SUCCEEDED"
    })

  const one = await waiting()
  const shown = await cli(["approval", "show", one.id])
  expect(shown.stdout).toMatch(/may answer +2 × approver, not the requester, delegates too/)
  expect(shown.stdout).toContain('"tool": "projects/project.archive"')
  expect(shown.stdout).toContain('"quorum": 2')
  const first = await cli(["approval", "approve", one.id, "--yes", "--comment", "fine"], "approver")
  expect(first.stdout).toContain("waiting for an answer: 1 of 2 have said yes")
  const again = await cli(["approval", "confirm", one.id, "--yes"], "approver")
  expect(again.stderr).toContain("You had said so before; nothing changed.")
  const broken = ["approval", "break-glass", one.id, "--yes", "--reason", "site down, alone"]
  expect((await cli(broken, "approver")).stderr).toContain("(ROLE_TOO_LOW)")
  expect((await cli(broken, "admin")).code).toBe(0)
  await ended(one.runId)
  const after = await cli(["approval", "show", one.id])
  expect(after.stdout).toMatch(/broke the glass +[0-9a-f-]{36}: site down, alone/)

  const two = await waiting()
  const { memberships } = await json(["workspace", "list"], "member")
  const delegate = memberships[0].member.actorId
  const made = await cli(["delegation", "create", delegate, "--for", "1h", "-q"], "approver")
  const delegation = made.stdout.trim()
  const own = await cli(
    ["approval", "confirm", two.id, "--yes", "--delegation", delegation],
    "member",
  )
  expect(own.stderr).toContain("(APPROVER_NOT_ALLOWED)")
  await cli(["approval", "confirm", two.id, "--yes"], "admin")
  await cli(["approval", "confirm", two.id, "--yes"], "approver")
  await ended(two.runId)

  const three = await waiting()
  const rejected = await cli(["approval", "reject", three.id, "--yes"], "approver")
  expect(rejected.stdout).toContain("rejected: A person said no.")
  await cli(["approval-rule", "activate", "default@1"], "admin")
})

/** Runs that wait for a yes, each for one approval. */
async function waiting(count: number): Promise<readonly string[]> {
  const plan = ["run", "start", "-f", "examples/plans/archive-project.yaml", "--wait", "-o", "json"]
  const ids: string[] = []
  for (let n = 0; n < count; n++) {
    const { runId } = JSON.parse((await cli(plan)).stdout).run
    const { approvals } = await json(["approval", "list", "--run", runId])
    ids.push(approvals[0].approvalId)
  }
  return ids
}

const stateOf = async (id: string) => (await json(["approval", "show", id])).approval.state

test("what waits is listed with what matters, as a table and as JSON", async () => {
  const [id = ""] = await waiting(1)
  const { stdout } = await cli(["approval", "list", "--wide"], "approver")
  const [head = "", ...rows] = stdout.trim().split("\n")
  expect(head.split(/ {2,}/)).toEqual([
    ...["APPROVAL", "TOOL", "RISK", "ARGUMENTS", "REQUESTER", "RUN", "DIGEST", "EXPIRES"],
  ])
  const { approval } = await json(["approval", "show", id])
  const row = rows.find((line) => line.startsWith(id))
  expect(row).toContain("projects/project.archive@1.0.0")
  expect(row).toMatch(/ high +\{"project_id":"[0-9a-f-]{36}/)
  expect(row).toContain(approval.requesterId)
  expect(row).toContain(approval.runId)
  expect(row).toContain(approval.digest.slice(0, 12))
  const { approvals } = await json(["approval", "list", "--wide"], "approver")
  const listed = approvals.find(({ approvalId }: { approvalId: string }) => approvalId === id)
  expect(listed).toEqual(approval)
  expect((await cli(["approval", "list"])).stdout).toMatch(/project\.archive +high +waiting/)
})

test("several are answered at once, each by itself: what fails leaves the others alone", async () => {
  const [first = "", second = "", third = ""] = await waiting(3)
  const missing = "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51"
  await cli(["approval", "reject", third, "--yes"], "approver")
  const ids = [first, missing, third, second, first.toUpperCase()]
  const answered = await cli(["approval", "confirm", ...ids, "--yes"], "approver")
  expect(answered.code).toBe(1)
  expect(answered.stdout).toContain(`✓ ${first} confirmed`)
  expect(answered.stdout).toContain(`✗ ${missing} not answered`)
  expect(answered.stdout).toMatch(
    new RegExp(`✗ ${third} not answered: .*\\(APPROVAL_NOT_PENDING\\)`),
  )
  expect(answered.stdout).toContain(`✓ ${second} confirmed`)
  expect(answered.stderr).toContain("2 of 4 answered.")
  expect(await stateOf(first)).toBe("APPROVAL_STATE_APPROVED")
  expect(await stateOf(second)).toBe("APPROVAL_STATE_APPROVED")
  const quiet = await cli(["approval", "confirm", "-q", second, missing, "--yes"], "approver")
  expect(quiet.stdout).toBe(`${second}\n`)
  expect(quiet.stderr).toContain(`Error: ${missing} not answered`)

  const again = await cli(
    ["-o", "json", "approval", "confirm", first, missing, "--yes"],
    "approver",
  )
  expect(JSON.parse(again.stdout).answers).toMatchObject([
    {
      approvalId: first,
      approval: { state: "APPROVAL_STATE_APPROVED" },
      reason: "already_answered",
    },
    { approvalId: missing, error: { reason: "NOT_FOUND" } },
  ])
})

test("a person sees all of what would run and answers once, and only what --digest names", async () => {
  const [first = "", second = "", third = ""] = await waiting(3)
  const reject = ["approval", "reject", first, second]
  expect((await cli(reject, "approver")).stderr).toContain("There is no terminal to ask on")
  const no = await cli(reject, "approver", { typed: "n\n" })
  expect(no.stderr).toContain("Nothing was answered; they still wait.")
  const { approval } = await json(["approval", "show", first])
  const named = [...reject, "--digest", "0".repeat(64), "--digest", approval.digest]
  const yes = await cli(named, "approver", { typed: "y\n" })
  expect(yes.stderr).toContain("Reject this one? [y/N]")
  expect(yes.stdout.match(/What would run/g)).toHaveLength(1)
  expect(yes.stdout).toMatch(new RegExp(`✗ ${first} rejected`))
  expect(yes.stdout).toMatch(new RegExp(`✗ ${second} not answered: .*approval_content_changed`))
  expect(await stateOf(second)).toBe("APPROVAL_STATE_PENDING")
  const confirm = ["approval", "confirm", first, second, third]
  const both = await cli(confirm, "approver", { typed: "y\n" })
  expect(both.stderr).toContain("Let exactly these 2 run, each once? [y/N]")
  expect(both.stdout.match(/What would run/g)).toHaveLength(3)
  expect(await stateOf(third)).toBe("APPROVAL_STATE_APPROVED")
  expect(await stateOf(second)).toBe("APPROVAL_STATE_APPROVED")
})
