// docs/configuration.md names every setting that the services read, and no other.
import { globSync, readFileSync } from "node:fs"
import path from "node:path"
import { expect, test } from "vitest"
import { serviceNames } from "../mesh/identity.ts"

const root = path.resolve(import.meta.dirname, "..")
const page = readFileSync(path.join(root, "docs/configuration.md"), "utf8")
const prefixes = serviceNames.map((name) => name.toUpperCase()).join("|")

/** What every service has, under its own prefix. */
const shared = /_(OWNER_|WORKER_)?DATABASE_(URL|POOL_SIZE)$|_(ADDRESS|IDENTITY_KEY)$/

function namesIn(text: string): string[] {
  const found = text.matchAll(new RegExp(`\\b(?:${prefixes})(?:_[A-Z0-9]+)+\\b`, "g"))
  return [...new Set([...found].map(([name]) => name))].filter((name) => !shared.test(name)).sort()
}

test("the page and the code name the same settings", () => {
  const files = globSync(["services/*/config.ts", "mesh/process.ts"], { cwd: root })
  const code = files.map((file) => readFileSync(path.join(root, file), "utf8")).join("\n")
  const read = namesIn(code.replaceAll(/"(TELEMETRY_[A-Z0-9_]+)"/g, '"$1"'))
  expect(read.length).toBeGreaterThan(30)
  expect(namesIn(page)).toEqual(read)
})
