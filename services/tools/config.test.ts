import { describe, expect, it } from "vitest"
import { ConfigError } from "../../mesh/config.ts"
import { readConfig } from "./config.ts"

const database = {
  TOOLS_DATABASE_URL: "postgres://app:x@127.0.0.1:5432/tools",
  TOOLS_WORKER_DATABASE_URL: "postgres://worker:x@127.0.0.1:5432/tools",
}

describe("readConfig", () => {
  it("knows the providers of the mesh by default", () => {
    const { providers } = readConfig(database)
    expect(providers.map(({ name }) => name)).toEqual(["projects", "retrieval"])
  })

  it("reads any provider of a good name", () => {
    const { providers } = readConfig({
      ...database,
      TOOLS_PROVIDERS: "billing=dns:///billing:7200",
    })
    expect(providers).toEqual([{ name: "billing", address: "dns:///billing:7200" }])
  })

  it("lists everything that is wrong at once", () => {
    const env = { TOOLS_PROVIDERS: "Bad Name=x,a=h:1,a=h:2", TOOLS_LEASE_MS: "0" }
    const problems = () => readConfig(env)
    expect(problems).toThrow(ConfigError)
    expect(problems).toThrow(
      /TOOLS_DATABASE_URL[\s\S]*"Bad Name=x"[\s\S]*a is named twice[\s\S]*TOOLS_LEASE_MS/,
    )
  })
})
