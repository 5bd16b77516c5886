// The rules of the house, read from the imports: gen ← mesh ← services/x ← services/local ← test, bench.
import { globSync, readFileSync } from "node:fs"
import path from "node:path"
import { describe, expect, test } from "vitest"

const root = path.resolve(import.meta.dirname, "..")
const folders = ["gen", "mesh", "services", "cli", "test", "bench", "scripts", "examples"]
const files = folders.flatMap((folder) => globSync(`${folder}/**/*.ts`, { cwd: root })).sort()
const sources = files.filter((file) => !isTest(file) && !file.startsWith("gen/"))

interface Import {
  readonly from: string
  /** A path below the root for our own files, a package or built-in name otherwise. */
  readonly to: string
  readonly isOurs: boolean
  readonly isTypeOnly: boolean
}

const imports: readonly Import[] = files.flatMap(readImports)

function isTest(file: string): boolean {
  return file.endsWith(".test.ts") || file.startsWith("test/")
}

function readImports(file: string): Import[] {
  const text = readFileSync(path.join(root, file), "utf8")
  const statement =
    /^(?:import|export)(?<type> type)?\s(?:[^"';]*?\sfrom\s)?"(?<name>[^"]+)"|\bimport\("(?<dynamic>[^"]+)"\)/gm
  return [...text.matchAll(statement)].flatMap((match) => {
    const name = match.groups?.name ?? match.groups?.dynamic
    if (name === undefined) return []
    const isOurs = name.startsWith(".")
    const to = isOurs ? path.join(path.dirname(file), name) : name
    return [{ from: file, to, isOurs, isTypeOnly: match.groups?.type !== undefined }]
  })
}

function room(file: string): string {
  const [top = "", second = ""] = file.split("/")
  return top === "services" ? `services/${second}` : top
}

function breaks(allowed: (it: Import) => boolean): string[] {
  return imports.filter((it) => !allowed(it)).map((it) => `${it.from} imports ${it.to}`)
}

test("there is something to check", () => {
  expect(sources.length).toBeGreaterThan(50)
  expect(imports.filter((it) => it.isOurs).length).toBeGreaterThan(100)
})

describe("dependencies point one way", () => {
  test("gen imports only the Protobuf runtime", () => {
    expect(
      breaks(
        (it) =>
          !it.from.startsWith("gen/") ||
          it.to.startsWith("gen/") ||
          it.to.startsWith("@bufbuild/protobuf"),
      ),
    ).toEqual([])
  })

  test("mesh imports gen, itself and libraries", () => {
    expect(
      breaks((it) => room(it.from) !== "mesh" || !it.isOurs || /^(gen|mesh)\//.test(it.to)),
    ).toEqual([])
  })

  test("a service imports gen, mesh and itself, never another service", () => {
    expect(
      breaks(
        (it) =>
          !it.from.startsWith("services/") ||
          it.from.startsWith("services/local/") ||
          !it.isOurs ||
          /^(gen|mesh)\//.test(it.to) ||
          room(it.to) === room(it.from),
      ),
    ).toEqual([])
  })

  test("others reach into a service only by its service.ts, benches also by its quality room", () => {
    expect(
      breaks(
        (it) =>
          !it.isOurs ||
          !it.to.startsWith("services/") ||
          room(it.to) === room(it.from) ||
          /^services\/\w+\/service\.ts$/.test(it.to) ||
          (/^services\/\w+\/quality\//.test(it.to) && it.from.startsWith("bench/")) ||
          (/^services\/local\//.test(it.to) && /^(test|bench)\//.test(it.from)),
      ),
    ).toEqual([])
  })

  test("only services/local, tests and benches import a service at all", () => {
    expect(
      breaks(
        (it) =>
          !it.isOurs ||
          !it.to.startsWith("services/") ||
          room(it.to) === room(it.from) ||
          it.from.startsWith("services/local/") ||
          /^(test|bench)\//.test(it.from),
      ),
    ).toEqual([])
  })

  test("an example imports gen and itself: it is written from outside", () => {
    expect(
      breaks((it) => room(it.from) !== "examples" || !it.isOurs || /^(gen|examples)\//.test(it.to)),
    ).toEqual([])
  })

  test("the cli imports gen, mesh and itself", () => {
    expect(
      breaks((it) => room(it.from) !== "cli" || !it.isOurs || /^(gen|mesh|cli)\//.test(it.to)),
    ).toEqual([])
  })
})

describe("a library has one door", () => {
  test("pg is imported by the database module alone; stores take its types from there", () => {
    expect(
      breaks((it) => it.to !== "pg" || isTest(it.from) || /^(mesh|bench)\//.test(it.from)),
    ).toEqual([])
  })

  test("grpc-js and connect-node are imported by the transports of mesh, and from outside", () => {
    expect(
      breaks(
        (it) =>
          !/^(@grpc\/grpc-js|@connectrpc\/connect-node)/.test(it.to) ||
          isTest(it.from) ||
          /^(mesh|bench|examples)\//.test(it.from),
      ),
    ).toEqual([])
  })
})

describe("the way out", () => {
  test("undici is imported by the egress alone, and nobody else fetches", () => {
    expect(
      breaks((it) => it.to !== "undici" || it.from === "mesh/egress.ts" || isTest(it.from)),
    ).toEqual([])
    const offenders = sources.filter(
      (file) =>
        /^(services|mesh)\//.test(file) &&
        !/-harness\.ts$/.test(file) &&
        /(?<![.\w])fetch\(/.test(readFileSync(path.join(root, file), "utf8")) &&
        file !== "mesh/egress.ts",
    )
    expect(offenders).toEqual([])
  })
})

describe("files", () => {
  test("process.env is read in a main.ts, and by what only tests load", () => {
    const offenders = sources.filter(
      (file) =>
        !/(^|\/)main\.ts$/.test(file) &&
        !/^(scripts|bench)\/|^mesh\/(test-|fixtures\/)/.test(file) &&
        readFileSync(path.join(root, file), "utf8").includes("process.env"),
    )
    expect(offenders).toEqual([])
  })

  test("nothing is called utils, helpers, types, constants or index", () => {
    expect(
      sources.filter((file) => /(^|\/)(utils?|helpers?|types|constants|index)\.ts$/.test(file)),
    ).toEqual([])
  })

  test("a file fits on a few screens", () => {
    const long = sources.filter(
      (file) => readFileSync(path.join(root, file), "utf8").split("\n").length > 500,
    )
    expect(long).toEqual([])
  })

  test("a service's main.ts is at most 30 lines", () => {
    const long = globSync("services/*/main.ts", { cwd: root }).filter(
      (file) =>
        !file.startsWith("services/local/") &&
        readFileSync(path.join(root, file), "utf8").trimEnd().split("\n").length > 30,
    )
    expect(long).toEqual([])
  })
})
