/**
 * What a command writes. On stdout stands the result: a table for people, or exactly one JSON
 * document. Everything that merely accompanies it goes to stderr, and nowhere with --quiet or JSON.
 */
import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf"
import Table from "cli-table3"
import pc from "picocolors"
import type { Tone } from "../mesh/outcomes.ts"
import { visible, visibleLines } from "../mesh/visible-text.ts"
import type { Failure } from "./failure.ts"
import type { Io } from "./io.ts"

export type Format = "json" | "table"

const marks: Readonly<Record<Tone, string>> = {
  progress: "·",
  success: "✓",
  attention: "!",
  failure: "✗",
  neutral: "-",
}

export class Output {
  readonly io: Io
  readonly format: Format
  readonly isQuiet: boolean
  readonly #colors: ReturnType<typeof pc.createColors>

  constructor(io: Io, options: { readonly format: Format; readonly isQuiet: boolean }) {
    this.io = io
    this.format = options.format
    this.isQuiet = options.isQuiet
    this.#colors = pc.createColors(
      io.stdout.isTTY === true && (io.env.NO_COLOR ?? "") === "" && options.format === "table",
    )
  }

  get isJson(): boolean {
    return this.format === "json"
  }

  /** A message of the contract: protobuf JSON, or what `render` prints for a person. */
  message<Desc extends DescMessage>(schema: Desc, message: MessageShape<Desc>, render: () => void) {
    if (this.isJson) this.document(toJson(schema, message))
    else render()
  }

  /** One JSON document on stdout. */
  document(value: unknown): void {
    this.io.stdout.write(`${JSON.stringify(value, null, 2)}\n`)
  }

  /** One JSON value on one line, for what goes on. */
  record(value: unknown): void {
    this.io.stdout.write(`${JSON.stringify(value)}\n`)
  }

  line(text = ""): void {
    if (!this.isJson) this.io.stdout.write(`${visibleLines(text)}\n`)
  }

  /** A line that begins with the mark of a tone. */
  marked(tone: Tone, text: string): void {
    if (this.isJson) return
    this.io.stdout.write(`${this.#paint(tone, marks[tone])} ${visibleLines(text)}\n`)
  }

  heading(text: string): void {
    if (!this.isJson) this.io.stdout.write(`${this.#colors.bold(visible(text))}\n`)
  }

  /** Rows in columns; with --quiet the first column alone. */
  table(head: readonly string[], rows: readonly (readonly string[])[], empty: string): void {
    if (this.isQuiet) {
      for (const [id = ""] of rows) this.line(id)
      return
    }
    if (rows.length === 0) {
      this.note(empty)
      return
    }
    const table = bareTable(head.map((name) => this.#colors.bold(name)))
    for (const row of rows) table.push(row.map((cell) => visible(cell)))
    this.io.stdout.write(`${trimLines(table.toString())}\n`)
  }

  /** Names and values below each other; what has no value is left out. */
  details(pairs: readonly (readonly [string, string | undefined])[]): void {
    const shown = pairs.filter(([, value]) => value !== undefined && value !== "")
    const width = Math.max(0, ...shown.map(([name]) => name.length))
    for (const [name, value = ""] of shown) {
      const text = visibleLines(value).replaceAll("\n", `\n${" ".repeat(width + 2)}`)
      this.io.stdout.write(`${this.#colors.dim(name.padEnd(width))}  ${text}\n`)
    }
  }

  /** A remark on stderr. */
  note(text: string): void {
    if (!this.isQuiet && !this.isJson) this.io.stderr.write(`${visibleLines(text)}\n`)
  }

  /** Why the command did not succeed: on stderr, or as the JSON document. */
  failure(failure: Failure): void {
    if (this.isJson) {
      this.document({ error: failure })
      return
    }
    const lines = [`Error: ${failure.message}`]
    for (const { field, description } of failure.fields) {
      lines.push(`  ${field === "" ? "" : `${field}: `}${description}`)
    }
    if (failure.next !== undefined) lines.push(failure.next)
    if (/^[A-Z_]+$/.test(failure.reason)) lines.push(`(${failure.reason})`)
    this.io.stderr.write(`${visibleLines(lines.join("\n"))}\n`)
  }

  #paint(tone: Tone, text: string): string {
    switch (tone) {
      case "success":
        return this.#colors.green(text)
      case "attention":
        return this.#colors.yellow(text)
      case "failure":
        return this.#colors.red(text)
      default:
        return this.#colors.dim(text)
    }
  }
}

function bareTable(head: string[]) {
  const none = {
    top: "",
    "top-mid": "",
    "top-left": "",
    "top-right": "",
    bottom: "",
    "bottom-mid": "",
    "bottom-left": "",
    "bottom-right": "",
    left: "",
    "left-mid": "",
    mid: "",
    "mid-mid": "",
    right: "",
    "right-mid": "",
    middle: "  ",
  }
  return new Table({
    head,
    chars: none,
    style: { head: [], border: [], "padding-left": 0, "padding-right": 0 },
  })
}

function trimLines(text: string): string {
  return text
    .split("\n")
    .map((line) => line.trimEnd())
    .join("\n")
}
