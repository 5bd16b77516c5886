/** Walks the tree of a plan file and gathers what is wrong with it, by line. */
import type { DescEnum } from "@bufbuild/protobuf"
import {
  isAlias,
  isMap,
  isPair,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  type YAMLMap,
} from "yaml"
import { enumNames, enumValue } from "./enum-text.ts"
import { CliError, type FailedField } from "./failure.ts"

/**
 * Reads a YAML or JSON document with `read`. Throws one error with every fault that was found, by
 * line, in the words of `failure`.
 */
export function readYaml<T>(
  text: string,
  read: (root: Node | null, reader: PlanReader) => T | undefined,
  failure: { readonly message: string; readonly reason: string; readonly next: string },
): T {
  const lines = new LineCounter()
  const reader = new PlanReader(lines)
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false })
  for (const error of [...document.errors, ...document.warnings]) {
    reader.faultAt(error.pos[0], error.message)
  }
  const found = reader.isClean ? read(document.contents, reader) : undefined
  if (found !== undefined && reader.isClean) return found
  const { message, ...how } = failure
  throw new CliError(message, { ...how, fields: reader.faults })
}

export class PlanReader {
  readonly faults: FailedField[] = []
  readonly #lines: LineCounter

  constructor(lines: LineCounter) {
    this.#lines = lines
  }

  get isClean(): boolean {
    return this.faults.length === 0
  }

  fault(node: Node | null | undefined, description: string): void {
    this.faultAt(node?.range?.[0] ?? 0, description)
  }

  faultAt(offset: number, description: string): void {
    this.faults.push({ field: this.#lineAt(offset), description })
  }

  place(node: Node): string | undefined {
    return node.range === undefined || node.range === null ? undefined : this.#lineAt(node.range[0])
  }

  /** The members of a mapping; whatever has another name is a fault. */
  fields(map: YAMLMap, known: readonly string[], where: string): ReadonlyMap<string, Node> {
    const found = new Map<string, Node>()
    for (const { key, value } of map.items) {
      const name = isScalar(key) ? String(key.value) : ""
      if (!known.includes(name)) {
        const hint = nearest(name, known)
        const meant = hint === undefined ? `known are ${known.join(", ")}` : `did you mean ${hint}?`
        this.fault(key as Node, `${where} has no field "${name}"; ${meant}`)
      } else if (value !== null && !(isScalar(value) && value.value === null)) {
        found.set(name, value as Node)
      }
    }
    return found
  }

  /** A text; numbers and the like are a fault, so that a version 1.0 is not taken for 1. */
  text(node: Node | undefined): string | undefined {
    if (node === undefined) return undefined
    if (isScalar(node) && typeof node.value === "string") return node.value
    this.fault(node, "this must be a text; put it in quotes if it looks like something else")
    return undefined
  }

  /** The items of a list; none where there is none. */
  list(node: Node | undefined): readonly Node[] {
    if (node === undefined) return []
    if (isSeq(node)) return node.items as Node[]
    this.fault(node, "this must be a list")
    return []
  }

  /** The texts of a list. */
  texts(node: Node | undefined): string[] {
    return this.list(node).map((item) => this.text(item) ?? "")
  }

  /** The value that a word stands for. */
  word<Value extends number>(node: Node, desc: DescEnum): Value {
    const word = this.text(node) ?? ""
    const names = enumNames(desc)
    if (!names.includes(word)) this.fault(node, `this is one of ${names.join(", ")}`)
    return enumValue<Value>(desc, word)
  }

  /** The values that the words of a list stand for. */
  words<Value extends number>(node: Node | undefined, desc: DescEnum): Value[] {
    return this.list(node).map((item) => this.word<Value>(item, desc))
  }

  /** True or false; false where there is nothing. */
  flag(node: Node | undefined): boolean {
    if (node === undefined) return false
    if (isScalar(node) && typeof node.value === "boolean") return node.value
    this.fault(node, "this is true or false")
    return false
  }

  /** Runs `work`, and turns the failure it throws into a fault at this node. */
  attempt<T>(node: Node | undefined, work: () => T): T | undefined {
    try {
      return work()
    } catch (error) {
      if (!(error instanceof CliError)) throw error
      this.fault(node, error.message)
      return undefined
    }
  }

  /** Faults that JSON would hide, and references that lead nowhere. */
  checkArguments(node: Node | null, step: number): void {
    if (isAlias(node)) return
    if (isScalar(node)) this.#checkScalar(node as Node & { value: unknown; source?: string })
    if (isSeq(node)) for (const item of node.items) this.checkArguments(item as Node, step)
    if (!isMap(node)) return
    for (const pair of node.items) {
      if (!isPair(pair) || !isScalar(pair.key) || typeof pair.key.value !== "string") {
        this.fault(pair.key as Node, "the name of an argument must be a text")
      }
      this.checkArguments(pair.value as Node | null, step)
    }
    if (node.has("$from")) this.#checkReference(node, step)
  }

  #checkScalar(node: Node & { readonly value: unknown; readonly source?: string }): void {
    const { value } = node
    if (typeof value === "number" && !Number.isFinite(value)) {
      this.fault(node, "JSON has no such number")
    } else if (Number.isInteger(value) && !Number.isSafeInteger(value)) {
      this.fault(node, "this number is too large to be exact; write it as a text")
    } else if (!["string", "number", "boolean"].includes(typeof value) && value !== null) {
      this.fault(node, "JSON has no value of this kind")
    } else if (typeof value === "string" && !value.isWellFormed()) {
      this.fault(node, "this text holds half a character (a lone surrogate)")
    }
  }

  #checkReference(node: YAMLMap, step: number): void {
    const from = node.get("$from")
    const path = node.get("path") ?? ""
    const others = node.items.map(({ key }) => String(isScalar(key) ? key.value : key))
    const other = others.find((name) => name !== "$from" && name !== "path")
    if (other !== undefined) {
      this.fault(node, `a reference has $from and path and nothing else, not "${other}"`)
    } else if (typeof from !== "number" || !Number.isInteger(from) || from < 0) {
      this.fault(node, "$from is the number of an earlier step, counted from 0")
    } else if (from >= step) {
      this.fault(
        node,
        `$from names step ${from}, but this is step ${step}: it must be an earlier one`,
      )
    } else if (typeof path !== "string" || (path !== "" && !path.startsWith("/"))) {
      this.fault(node, 'path is a JSON Pointer into the result, such as "/project_id"')
    }
  }

  #lineAt(offset: number): string {
    return `line ${Math.max(1, this.#lines.linePos(offset).line)}`
  }
}

/** The known name that a slip of the hand made of this one. */
function nearest(name: string, known: readonly string[]): string | undefined {
  const plain = (text: string) => text.toLowerCase().replaceAll(/[^a-z]/g, "")
  const same = known.find((one) => plain(one) === plain(name))
  return (
    same ?? known.find((one) => Math.abs(one.length - name.length) <= 2 && distance(one, name) <= 2)
  )
}

function distance(one: string, other: string): number {
  let row = Array.from({ length: other.length + 1 }, (_, index) => index)
  for (let i = 1; i <= one.length; i++) {
    const next = [i]
    for (let j = 1; j <= other.length; j++) {
      const swap = (row[j - 1] ?? 0) + (one[i - 1] === other[j - 1] ? 0 : 1)
      next.push(Math.min(swap, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1))
    }
    row = next
  }
  return row[other.length] ?? 0
}
