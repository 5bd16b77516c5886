/** The page of measured quality: each command writes its own section, between marks, and no other. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"

const page = join(import.meta.dirname, "..", "docs", "quality.md")
const head = `# Quality

What is measured on public test sets that nobody here wrote. Each section is written by the command that it names; the sets are read from the folder that \`RUNWARDEN_EVAL_DATA\` names, and are no part of the project.
`

/** Writes a section of the page, in the place where it stands or at the end. */
export function writeSection(name: string, markdown: string): void {
  const stored = existsSync(page) ? readFileSync(page, "utf8") : head
  writeFileSync(page, withSection(stored, name, markdown))
}

/** The page with this section in place of its former self. */
export function withSection(stored: string, name: string, markdown: string): string {
  const begin = `<!-- begin ${name} -->`
  const end = `<!-- end ${name} -->`
  const section = `${begin}\n\n${markdown.trim()}\n\n${end}`
  const from = stored.indexOf(begin)
  const to = stored.indexOf(end)
  if (from < 0 || to < from) return `${stored.trimEnd()}\n\n${section}\n`
  return stored.slice(0, from) + section + stored.slice(to + end.length)
}
