import { describe, expect, it } from "vitest"
import { reasonOf } from "../../../mesh/errors.ts"
import type { FoundTool } from "./catalogue.ts"
import type { Choices } from "./choices.ts"
import { createMeanings } from "./meanings.ts"
import type { ToolRow } from "./tool-store.ts"

const none: Choices = { versions: new Map(), reviewed: new Set(), providers: new Map() }
const nothing = { known: () => null, find: async () => null }
const { signal } = new AbortController()

describe("what a name means", () => {
  const offers = [found("git/push", "1", { active: true }), found("git/push", "2")]

  it("is what the deployment uses where nothing is chosen", async () => {
    const meanings = meaningsOf(offers, none)
    for (const name of ["push", "git/push"]) {
      const meaning = await meanings.resolve("w", name, "", signal)
      expect(meaning).toMatchObject({ row: { version: "1" }, isInUse: true, mayRun: true })
      expect(meanings.known("w", name, "")?.row.version).toBe("1")
    }
  })

  it("is what the workspace has chosen, by either name", async () => {
    const meanings = meaningsOf(offers, chosen({ "git/push": "2" }))
    for (const name of ["push", "git/push"]) {
      const meaning = await meanings.resolve("w", name, "", signal)
      expect(meaning).toMatchObject({ row: { version: "2" }, isInUse: true, mayRun: true })
      expect(meanings.known("w", name, "")).toBeUndefined()
    }
    expect(await meanings.resolve("w", "git/push", "1", signal)).toMatchObject({ isInUse: false })
  })

  it("may not run where nobody has looked at it, or nobody offers it", async () => {
    const stranger = found("git/push", "3", { trusted: false })
    const meanings = meaningsOf([...offers, stranger], none)
    expect(await meanings.resolve("w", "git/push", "3", signal)).toMatchObject({ mayRun: false })
    const withdrawn = found("git/push", "2", { offered: false })
    const stale = meaningsOf([withdrawn], chosen({ "git/push": "2" }))
    expect(await stale.resolve("w", "git/push", "", signal)).toMatchObject({ mayRun: false })
  })

  it("is nobody's guess where two tools are meant, chosen or not", async () => {
    const two = [...offers, found("svn/push", "1")]
    const meanings = meaningsOf(two, chosen({ "svn/push": "1" }))
    const error = await meanings.resolve("w", "push", "", signal).catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("AMBIGUOUS_TOOL")
    expect(await meanings.resolve("w", "svn/push", "", signal)).toMatchObject({ mayRun: true })
  })

  it("is nothing before it is known what the workspace has chosen", () => {
    const book = { known: () => undefined, of: () => Promise.resolve(none) }
    expect(
      createMeanings(registryOf(offers), book, nothing).known("w", "git/push", ""),
    ).toBeUndefined()
  })
})

describe("what a workspace has added", () => {
  const offers = [found("git/push", "1", { active: true })]
  const mine = found("orders/order.get", "1", { active: true })
  const adds = (...names: string[]): Choices => ({
    ...none,
    providers: new Map(names.map((name) => [name, { providerId: name, revision: 1 }])),
  })

  it("is found by either name, beside what the deployment offers", async () => {
    const meanings = meaningsOf(offers, adds("orders"), [mine])
    for (const name of ["orders/order.get", "order.get"]) {
      expect(await meanings.resolve("w", name, "", signal)).toMatchObject({ row: mine.row })
    }
    for (const name of ["git/push", "push"]) {
      expect(await meanings.resolve("w", name, "", signal)).toMatchObject({ isInUse: true })
      expect(meanings.known("w", name, "")?.row.provider).toBe("git")
    }
  })

  it("is found in that workspace alone", async () => {
    const meanings = meaningsOf(offers, none, [mine])
    for (const name of ["orders/order.get", "order.get"]) {
      expect(await meanings.resolve("w", name, "", signal)).toBeUndefined()
      expect(meanings.known("w", name, "")).toBeUndefined()
    }
  })

  it("never stands for what the deployment offers", async () => {
    const shadow = found("git/push", "9", { active: true })
    const meanings = meaningsOf(offers, adds("git"), [shadow])
    for (const name of ["git/push", "push"]) {
      expect(await meanings.resolve("w", name, "", signal)).toMatchObject({ row: { version: "1" } })
      expect(meanings.known("w", name, "")?.row.version).not.toBe("9")
    }
  })

  it("makes a short name ambiguous that the deployment has too", async () => {
    const meanings = meaningsOf(offers, adds("svn"), [found("svn/push", "1", { active: true })])
    const error = await meanings.resolve("w", "push", "", signal).catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("AMBIGUOUS_TOOL")
    expect(meanings.known("w", "push", "")).toBeUndefined()
  })
})

function meaningsOf(
  offers: readonly FoundTool[],
  choices: Choices,
  own: readonly FoundTool[] = [],
) {
  const book = { known: () => choices, of: () => Promise.resolve(choices) }
  const { known } = registryOf(own)
  const find = (_: string, name: string, version: string) => known(name, version) ?? null
  return createMeanings(registryOf(offers), book, {
    known: find,
    find: async (...asked) => find(...asked),
  })
}

function registryOf(offers: readonly FoundTool[]) {
  const known = (name: string, version: string) =>
    offers.find(({ row, tool }) => {
      const isNamed = name.includes("/") ? tool.fullName === name : row.name === name
      return isNamed && (version === "" ? row.active : row.version === version)
    })
  return {
    known,
    resolve: async (name: string, version: string) => known(name, version),
    isConfigured: (provider: string) => offers.some(({ row }) => row.provider === provider),
  }
}

function chosen(versions: Readonly<Record<string, string>>): Choices {
  const digests = Object.entries(versions).map(([name, version]) => `${name}@${version}`)
  return { ...none, versions: new Map(Object.entries(versions)), reviewed: new Set(digests) }
}

function found(fullName: string, version: string, rest: Partial<ToolRow> = {}): FoundTool {
  const [provider = "", name = ""] = fullName.split("/")
  const digest = `${fullName}@${version}`
  const row = {
    provider,
    name,
    version,
    digest,
    offered: true,
    active: false,
    trusted: true,
    ...rest,
  }
  return { row, tool: { fullName } } as unknown as FoundTool
}
