/** Checks the examples in Python and Go as their own communities do: ruff, gofmt, go vet. */
import { spawnSync } from "node:child_process"
import path from "node:path"
import { findGo, findPython, goModules, root } from "./languages.ts"

const python = findPython()
if ("missing" in python) {
  console.log(`Python: not checked: ${python.missing}`)
} else {
  const { command } = python.found
  const files = ["examples", "scripts"]
  report("ruff check", command, ["-m", "ruff", "check", "--quiet", "--no-cache", ...files])
  report("ruff format", command, ["-m", "ruff", "format", "--check", "--no-cache", ...files])
}

const go = findGo()
if ("missing" in go) {
  console.log(`Go: not checked: ${go.missing}`)
} else {
  report("gofmt", "gofmt", ["-l", "examples"])
  for (const module of goModules()) report(`go vet in ${module}`, "go", ["vet", "./..."], module)
}

/** A command that ends badly or, as gofmt does, names files has found something. */
function report(name: string, command: string, args: readonly string[], folder = ""): void {
  const cwd = path.join(root, folder)
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: "utf8" })
  const isClean = status === 0 && (name !== "gofmt" || stdout === "")
  console.log(`${name}: ${isClean ? "clean" : "not clean"}`)
  if (isClean) return
  process.stderr.write(stdout + stderr)
  process.exitCode = 1
}
