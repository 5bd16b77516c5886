import { expect, test } from "vitest"
import { fold, readTokens } from "./tokens.ts"

test.each([
  ["$libdir/plugins", ["$libdir/plugins", "$libdir"]],
  ["see .pgpass.", [".pgpass"]],
  ["_PG_init()", ["_pg_init"]],
  [
    "pg_stat_statements.track_utility",
    ["pg_stat_statements.track_utility", "pg_stat_statements", "track_utility"],
  ],
  ["BGWORKER_\u200bDATABASE", ["bgworker_database"]],
  ["--no-owner", ["no-owner"]],
  ["plain words only, really.", []],
])("identifiers of %j", (text, expected) => {
  const exact = readTokens(text).filter(({ kind }) => kind === "exact")
  expect(exact.map((token) => token.text)).toEqual(expected)
})

test("words are folded, keywords are kept, positions count words", () => {
  expect(
    readTokens("Naïve ＡＢＣ DROP it").map(({ kind, text, position }) => [kind, text, position]),
  ).toEqual([
    ["word", "naive", 0],
    ["word", "abc", 1],
    ["word", "drop", 2],
    ["keyword", "DROP", 2],
    ["word", "it", 3],
  ])
})

test("scripts without spaces are found by pairs", () => {
  expect(readTokens("数据库").map(({ text, position }) => [text, position])).toEqual([
    ["数据", 0],
    ["据库", 1],
  ])
})

test("composed and decomposed letters are the same", () => {
  expect(fold("e\u0301t\u00e9")).toBe("ete")
  expect(fold("한국")).toBe("한국")
})
