// The bench in its quickest form: every kind of measurement once, and every run recounted.
import { execFile } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { promisify } from "node:util"
import { expect, test } from "vitest"

const root = path.resolve(import.meta.dirname, "..")

test("the bench measures, and finds every run that was acknowledged", async () => {
  const folder = mkdtempSync(path.join(tmpdir(), "runwarden-bench-test-"))
  const file = path.join(folder, "figures.json")
  const args = ["bench/runs.ts", "--quick", "--mode", "local", "--clients", "2", "--seconds", "0.2"]
  const { stdout } = await promisify(execFile)(process.execPath, [...args, "--json", file], {
    cwd: root,
  })
  expect(stdout).toContain("history and telemetry are complete")
  const figures = JSON.parse(readFileSync(file, "utf8"))
  rmSync(folder, { recursive: true })
  const works = figures.points.map(({ work }: { work: string }) => work)
  expect(works).toEqual(["floor", "each", "grouped", "edge"])
  for (const { rounds } of [...figures.points, ...figures.approvals]) {
    expect(rounds[0].p50).toBeGreaterThan(0)
  }
  const [recount] = figures.recounts
  expect(recount).toMatchObject({ mode: "local", missing: [] })
  expect(recount.runs).toBeGreaterThan(4)
}, 90_000)
