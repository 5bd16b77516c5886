// The runwarden command against a whole mesh: runs, approvals, and the command as a process.
import { describe, expect, test } from "vitest"
import { newId } from "../mesh/ids.ts"
import { until } from "../mesh/testing.ts"
import { startProcess, useCliFixture } from "./cli-process.ts"

const { cli, json, write, envOf } = useCliFixture()

/** Starts a run that waits for a confirmation. */
async function waiting(): Promise<{ readonly runId: string; readonly approvalId: string }> {
  const plan = "examples/plans/archive-project.yaml"
  const started = await cli(["run", "start", "-f", plan, "--wait", "-o", "json"])
  expect(started.code).toBe(3)
  const { runId } = JSON.parse(started.stdout).run
  const { approvals } = await json(["approval", "list", "--run", runId])
  return { runId, approvalId: approvals[0].approvalId }
}

describe("runs", () => {
  test("a plan runs to its end, and its steps are told", async () => {
    const plan = "examples/plans/set-up-project.yaml"
    const ended = await cli(["run", "start", "--file", plan, "--wait"])
    expect(ended).toMatchObject({ code: 0, stderr: "" })
    expect(ended.stdout).toMatch(/^run [0-9a-f-]{36}\n✓ step 0 {2}projects\/project\.create/)
    expect(ended.stdout).toContain("✓ succeeded: Every step was carried out.")

    const runId = ended.stdout.slice(4, 40)
    const { run } = await json(["run", "get", runId])
    expect(run).toMatchObject({ runId, state: "RUN_STATE_SUCCEEDED", planName: "set-up-project" })
    const shown = await cli(["run", "get", runId], "viewer")
    expect(shown.stdout).toContain("projects/document.create@1.0.0")
    expect((await json(["run", "list", "--state", "succeeded"])).runs[0].runId).toBe(runId)

    const watched = await cli(["run", "watch", runId, "-o", "json"])
    const events = watched.stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line))
    expect(events.map(({ sequence }) => Number(sequence))).toEqual(events.map((_, i) => i + 1))
    expect((await cli(["run", "watch", runId, "--after", "2"])).stdout).toContain("run: succeeded")

    const { toolCalls } = await json(["tool-call", "list", "--run", runId])
    expect(toolCalls).toHaveLength(3)
    const { toolCallId } = toolCalls[1]
    const { toolCall } = await json(["tool-call", "get", toolCallId])
    expect(toolCall.arguments.state).toBe("active")
    expect((await cli(["tool-call", "get", toolCallId])).stdout).toContain("from steps  0")
    const settled = await cli(["tool-call", "settle", toolCallId, "--result", "{}"], "approver")
    expect(settled.code).toBe(1)
    expect(settled.stderr).toContain("(ILLEGAL_TRANSITION)")
  })

  test("what policy denies ends with 4, and says which rule", async () => {
    const ended = await cli(["run", "start", "-f", "examples/plans/blocked.yaml", "--wait"])
    expect(ended.code).toBe(4)
    expect(ended.stdout).toContain("denied by policy")
    expect(ended.stdout).toContain("instruction-override")
    const { decisions } = await json(["decision", "list", "--verdict", "blocked"])
    const shown = await cli(["decision", "get", decisions[0].decisionId])
    expect(shown.stdout).toContain("prompt-injection")
  })

  test("a tool's error ends with 2, and shows the error", async () => {
    const plan = write(
      "fails.yaml",
      `name: fails\nsteps:\n  - tool: project.get\n    arguments: { project_id: ${newId()} }\n`,
    )
    const ended = await cli(["run", "start", "-f", plan, "--wait"])
    expect(ended.code).toBe(2)
    expect(ended.stdout).toContain("project_not_found")
  })

  test("a cancelled run ends with 5, and cancelling it again changes nothing", async () => {
    const { runId } = await waiting()
    const watching = cli(["run", "watch", runId])
    expect((await cli(["run", "cancel", runId])).stdout).toContain("cancelled")
    expect((await cli(["run", "cancel", runId])).code).toBe(0)
    expect((await watching).code).toBe(5)
  })

  test("values are filled in, and the plan may come by stdin", async () => {
    const args = ["run", "start", "-f", "examples/plans/file-note.yaml", "--wait", "-o", "json"]
    const ended = await cli([...args, "--set", "title=Hello", "--set", "text=# Hello"])
    expect(JSON.parse(ended.stdout).run.plan.steps[0].arguments.title).toBe("Hello")
    const stdin = '{"name": "piped", "steps": [{"tool": "project.list"}]}'
    const piped = await cli(["run", "start", "-f", "-", "-q"], "member", { stdin })
    expect(piped.stdout).toMatch(/^[0-9a-f-]{36}\n$/)
  })

  test("a start with a request id is one run, however often it is sent", async () => {
    const args = [
      "run",
      "start",
      "-q",
      "--request-id",
      newId(),
      "-f",
      "examples/plans/blocked.yaml",
    ]
    expect((await cli(args)).stdout).toBe((await cli(args)).stdout)
  })

  test("what the mesh refuses about a plan is led back to its line", async () => {
    const plan = write(
      "refused.yaml",
      "name: a\nsteps:\n  - tool: project.list\n  - tool: no.such\n",
    )
    const { code, stderr } = await cli(["run", "start", "-f", plan])
    expect(code).toBe(1)
    expect(stderr).toContain("There is no active tool no.such")
    expect(stderr).toContain("refused.yaml line 4, plan.steps[1].tool")
    const broken = write(
      "broken.yaml",
      "name: a\nsteps:\n  - tool: project.create\n    arguments: { nme: x }\n",
    )
    expect((await cli(["run", "start", "-f", broken])).stderr).toContain("broken.yaml line 4")
  })

  test("a plan with faults is not sent", async () => {
    const plan = write("faults.yaml", "name: a\nstepz: []\n")
    const { code, stderr } = await cli(["run", "start", "-f", plan])
    expect(code).toBe(1)
    expect(stderr).toContain('line 2: a plan has no field "stepz"; did you mean steps?')
  })
})

describe("approvals", () => {
  test("a person sees exactly what would run, says yes, and it runs", async () => {
    const { runId, approvalId } = await waiting()
    const asked = await cli(["approval", "confirm", approvalId], "approver", { typed: "y\n" })
    expect(asked.code).toBe(0)
    expect(asked.stdout).toMatch(/tool +projects\/project\.archive@1\.0\.0\nrisk +high/)
    expect(asked.stdout).toMatch(/"project_id": "[0-9a-f-]{36}"/)
    expect(asked.stdout).toMatch(/digest +[0-9a-f]{64}/)
    expect(asked.stderr).toContain("Let exactly this run, once? [y/N]")
    expect((await cli(["run", "watch", runId])).code).toBe(0)
  })

  test.each(["n\n", "\n", "", "yes please\n"])("the answer %j is no answer", async (typed) => {
    const { approvalId } = await waiting()
    const asked = await cli(["approval", "confirm", approvalId], "approver", { typed })
    expect(asked.code).toBe(1)
    const { approval } = await json(["approval", "show", approvalId])
    expect(approval.state).toBe("APPROVAL_STATE_PENDING")
  })

  test("without a terminal nothing is answered unless --yes says so", async () => {
    const { runId, approvalId } = await waiting()
    const refused = await cli(["approval", "reject", approvalId], "approver")
    expect(refused).toMatchObject({ code: 1, stdout: "" })
    const other = ["approval", "reject", approvalId, "--yes", "--digest", "0".repeat(64)]
    expect((await cli(other, "approver")).stderr).toContain("not what --digest names")
    const { approval } = await json(["approval", "show", approvalId])
    const args = ["approval", "reject", approvalId, "--yes", "--digest", approval.digest]
    const rejected = await json([...args, "--comment", "no"], "approver")
    expect(rejected.approval).toMatchObject({ state: "APPROVAL_STATE_REJECTED", comment: "no" })
    expect((await cli(["run", "watch", runId])).code).toBe(2)
    expect((await cli(["approval", "list", "--all"])).stdout).toContain("rejected")
  })

  test("who may not answer is told so", async () => {
    const { approvalId } = await waiting()
    const { code, stderr } = await cli(["approval", "confirm", approvalId, "--yes"])
    expect(code).toBe(1)
    expect(stderr).toContain("(ROLE_TOO_LOW)")
  })

  test("the arguments show what a terminal would hide", async () => {
    const plan = write(
      "hidden.yaml",
      `name: "hidden"\nsteps:\n  - tool: project.archive\n    title: "safe\\u202e\\e[2J"\n    arguments: { project_id: ${newId()} }\n`,
    )
    const started = await cli(["run", "start", "-f", plan, "--wait"])
    const approvalId = /approval confirm (\S+)/.exec(started.stdout)?.[1] ?? ""
    const { stdout } = await cli(["approval", "show", approvalId])
    expect(stdout).toContain("safe\\u{202e}\\u{001b}[2J")
    expect(stdout).not.toContain("\u202e")
  })
})

describe("as a process of its own", () => {
  test("stdout is JSON and nothing else, and the exit code is the run's", async () => {
    const args = ["run", "start", "-f", "examples/plans/blocked.yaml", "--wait", "-o", "json"]
    const { code, stdout, stderr } = await startProcess(args, { env: envOf("member") }).ended
    expect(code).toBe(4)
    expect(stderr).toBe("")
    expect(JSON.parse(stdout).run.reason).toBe("policy_denied")
  })

  test("a wrong command points to help that exists", async () => {
    const missing = await cli(["--as", "approver", "approval", "confirm"])
    expect(missing.stderr).toContain("See `npx runwarden approval confirm --help`.")
    const unknown = await cli(["bogus"])
    expect(unknown.stderr).toContain("See `npx runwarden --help`.")
  })

  test("help has examples on every command", async () => {
    const top = await cli(["--help"])
    const groups = [...top.stdout.matchAll(/^ {2}([a-z][a-z-]*)[ |]/gm)].map(
      (match) => match[1] ?? "",
    )
    expect(groups.length).toBeGreaterThan(12)
    for (const name of groups.filter((one) => one !== "help")) {
      const help = await cli([name, "--help"])
      expect(help.code).toBe(0)
      const below = help.stdout.split("\nCommands:\n")[1] ?? ""
      const names = [...below.matchAll(/^ {2}([a-z][a-z-]*)[ |]/gm)].map((match) => match[1] ?? "")
      if (names.length === 0) expect(help.stdout).toContain("Examples:\n  npx runwarden")
      for (const one of names.filter((each) => each !== "help")) {
        expect((await cli([name, one, "--help"])).stdout).toContain("Examples:\n  npx runwarden")
      }
    }
  })

  test("Ctrl-C ends a watch with 130", async () => {
    const { runId } = await waiting()
    const watch = startProcess(["run", "watch", runId], { env: envOf("member") })
    await until(() => watch.text.stdout.includes("needs confirmation"))
    watch.child.kill("SIGINT")
    expect(await watch.ended).toMatchObject({ code: 130, stderr: "" })
  })

  test("a reader that goes away is no error", async () => {
    const listing = startProcess(["tool", "get", "project.create"], {
      env: envOf("member"),
    })
    listing.child.stdout.destroy()
    expect(await listing.ended).toMatchObject({ code: 0, stderr: "" })
  })
})
