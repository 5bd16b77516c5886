// Code on a page of docs/ that is said to be of an example is of that example, to the letter.
import { existsSync, globSync, readFileSync } from "node:fs"
import path from "node:path"
import { expect, test } from "vitest"
import { root } from "../scripts/languages.ts"

interface Excerpt {
  readonly page: string
  readonly file: string
  readonly code: string
}

/** A block of code below a line that ends with the link to its file and a colon. */
const labelled = /\]\((?<link>\.\.\/examples\/[^)]+)\):\n\n```\w+\n(?<code>[\s\S]*?)\n```/g

const excerpts: readonly Excerpt[] = globSync("docs/*.md", { cwd: root }).flatMap((page) =>
  [...readFileSync(path.join(root, page), "utf8").matchAll(labelled)].map(({ groups }) => ({
    page,
    file: path.join(path.dirname(page), groups?.link ?? ""),
    code: groups?.code ?? "",
  })),
)

test("there is code of every example", () => {
  const folders = new Set(excerpts.map(({ file }) => path.dirname(file)))
  const languages = ["typescript", "python", "go"]
  const wanted = ["provider", "client"].flatMap((example) =>
    languages.map((language) => `examples/${example}-${language}`),
  )
  expect([...folders].sort()).toEqual([...wanted, "examples/provider-mcp"].sort())
})

test.each(excerpts)("$page shows $file as it is", ({ file, code }) => {
  expect(readFileSync(path.join(root, file), "utf8")).toContain(code)
})

test("every link of the page and of the examples leads somewhere", () => {
  const pages = ["docs/offer-a-tool.md", ...globSync("examples/*/README.md", { cwd: root })]
  const dead = pages.flatMap((page) =>
    [...readFileSync(path.join(root, page), "utf8").matchAll(/\]\((?!https?:|#)([^)#]+)/g)]
      .map(([, link = ""]) => path.join(path.dirname(page), link))
      .filter((target) => !existsSync(path.join(root, target)))
      .map((target) => `${page}: ${target}`),
  )
  expect(dead).toEqual([])
})
