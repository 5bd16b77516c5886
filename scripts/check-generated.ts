// Fails when gen/ is not what buf makes of the protos: everybody reads gen/, so it must not be stale.
import { spawnSync } from "node:child_process"
import { globSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"

const root = path.resolve(import.meta.dirname, "..")
const fresh = mkdtempSync(path.join(tmpdir(), "runwarden-gen-"))

try {
  run(process.execPath, "scripts/third-party-protos.ts")
  run("buf", "generate", "--output", fresh)
  const findings = compare(path.join(root, "gen"), path.join(fresh, "gen"))
  if (findings.length > 0) {
    console.error(`gen/ is not what the protos say; run \`npm run proto\`:\n${findings.join("\n")}`)
    process.exitCode = 1
  } else {
    console.log("gen/ is what the protos say")
  }
} finally {
  rmSync(fresh, { recursive: true, force: true })
}

function run(command: string, ...args: readonly string[]): void {
  const bin = path.join(root, "node_modules", ".bin")
  const env = { ...process.env, PATH: `${bin}${path.delimiter}${process.env.PATH ?? ""}` }
  const { status, error } = spawnSync(command, args, { cwd: root, env, stdio: "inherit" })
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} failed`, { cause: error })
}

function compare(committed: string, generated: string): readonly string[] {
  const list = (folder: string) => globSync("**/*.ts", { cwd: folder }).sort()
  const wanted = new Set(list(generated))
  if (wanted.size === 0) return ["nothing was generated"]
  const present = new Set(list(committed))
  const missing = [...wanted].filter((file) => !present.has(file))
  const extra = [...present].filter((file) => !wanted.has(file))
  const different = [...wanted].filter(
    (file) =>
      present.has(file) &&
      !readFileSync(path.join(committed, file)).equals(readFileSync(path.join(generated, file))),
  )
  return [
    ...missing.map((file) => `missing: gen/${file}`),
    ...extra.map((file) => `left over: gen/${file}`),
    ...different.map((file) => `different: gen/${file}`),
  ]
}
