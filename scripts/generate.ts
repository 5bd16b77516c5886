/**
 * Makes gen/ out of the protos, in every language whose plugins are here, and with `--check` only
 * tells whether it is what they say: everybody reads gen/, so it must not be stale.
 */
import { spawnSync } from "node:child_process"
import { cpSync, globSync, mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { findGo, findPython, root } from "./languages.ts"

interface Language {
  readonly name: string
  /** The template of buf. */
  readonly template: string
  /** What is generated, below the root; all else in the folder is written by hand. */
  readonly files: string
  /** The folder with its plugins, or why they are not here. */
  find(): { readonly bin: string } | { readonly missing: string }
}

const languages: readonly Language[] = [
  {
    name: "TypeScript",
    template: "buf.gen.yaml",
    files: "gen/**/*.ts",
    find: () => ({ bin: path.join(root, "node_modules", ".bin") }),
  },
  {
    name: "Python",
    template: "buf.gen.python.yaml",
    files: "gen/python/**/*_pb2*.{py,pyi}",
    find() {
      const python = findPython()
      return "found" in python ? python.found : python
    },
  },
  {
    name: "Go",
    template: "buf.gen.go.yaml",
    files: "gen/go/**/*.pb.go",
    find() {
      const go = findGo()
      return "found" in go ? { bin: go.found.plugins } : go
    },
  },
]

const isCheck = process.argv.includes("--check")
const fresh = mkdtempSync(path.join(tmpdir(), "runwarden-gen-"))
try {
  run("", process.execPath, "scripts/third-party-protos.ts")
  for (const language of languages) {
    const found = language.find()
    if ("missing" in found) {
      console.log(`${language.name}: not ${isCheck ? "checked" : "generated"}: ${found.missing}`)
      continue
    }
    run(found.bin, "buf", "generate", "--template", language.template, "--output", fresh)
    const findings = compare(language)
    if (isCheck) report(language, findings)
    else replace(language, findings)
  }
} finally {
  rmSync(fresh, { recursive: true, force: true })
}

function run(bin: string, command: string, ...args: readonly string[]): void {
  const folders = [bin, path.join(root, "node_modules", ".bin"), process.env.PATH ?? ""]
  const env = { ...process.env, PATH: folders.filter((one) => one !== "").join(path.delimiter) }
  const { status, error } = spawnSync(command, args, { cwd: root, env, stdio: "inherit" })
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} failed`, { cause: error })
}

interface Findings {
  readonly missing: readonly string[]
  readonly leftOver: readonly string[]
  readonly different: readonly string[]
}

function compare({ name, files }: Language): Findings {
  const wanted = new Set(globSync(files, { cwd: fresh }))
  const present = new Set(globSync(files, { cwd: root }))
  if (wanted.size === 0) throw new Error(`nothing was generated for ${name}`)
  return {
    missing: [...wanted].filter((file) => !present.has(file)),
    leftOver: [...present].filter((file) => !wanted.has(file)),
    different: [...wanted].filter(
      (file) =>
        present.has(file) &&
        !readFileSync(path.join(root, file)).equals(readFileSync(path.join(fresh, file))),
    ),
  }
}

function report({ name }: Language, { missing, leftOver, different }: Findings): void {
  const lines = [
    ...missing.map((file) => `missing: ${file}`),
    ...leftOver.map((file) => `left over: ${file}`),
    ...different.map((file) => `different: ${file}`),
  ]
  if (lines.length === 0) {
    console.log(`${name}: gen/ is what the protos say`)
    return
  }
  console.error(`${name}: gen/ is not what the protos say; run \`npm run proto\`:`)
  console.error(lines.join("\n"))
  process.exitCode = 1
}

function replace({ name }: Language, { missing, leftOver, different }: Findings): void {
  for (const file of leftOver) rmSync(path.join(root, file))
  for (const file of [...missing, ...different]) {
    cpSync(path.join(fresh, file), path.join(root, file))
  }
  console.log(`${name}: generated`)
}
