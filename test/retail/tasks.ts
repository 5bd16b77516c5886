/**
 * The retail domain of tau-bench, read from the folder of the test sets: the shop's records, and tasks
 * with the calls that solve them, what each call answers, and which records differ afterwards.
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import type { ShopData } from "./shop-data.ts"

export interface Task {
  readonly id: string
  readonly actions: readonly { readonly name: string; readonly arguments: JsonObject }[]
  /** What each action answers: a text, or the text of a JSON value. */
  readonly results: readonly string[]
  /** By `kind/id`. */
  readonly changedRecords: Readonly<Record<string, JsonValue>>
}

export interface RetailSet {
  readonly shop: ShopData
  readonly tasks: readonly Task[]
}

const splits = ["dev", "test"] as const

/** undefined where the folder has no such set. */
export function readRetailSet(evalFolder: string | undefined): RetailSet | undefined {
  const folder = join(evalFolder ?? "", "tools-tau-bench", "retail")
  if (evalFolder === undefined || !existsSync(folder)) return undefined
  const read = (name: string) => JSON.parse(readFileSync(join(folder, `${name}.json`), "utf8"))
  return {
    shop: { products: read("products"), users: read("users"), orders: read("orders") },
    tasks: splits.flatMap((split) => readTasks(folder, split)),
  }
}

interface ExpectedLine {
  readonly id: string
  readonly results: readonly string[]
  readonly changed_records: Readonly<Record<string, JsonObject>>
}

function readTasks(folder: string, split: string): Task[] {
  const expected = new Map(
    readLines<ExpectedLine>(folder, `expected_tasks_${split}`).map((line) => [line.id, line]),
  )
  return readLines<Pick<Task, "id" | "actions">>(folder, `tasks_${split}`).map((task) => {
    const { results, changed_records } = expected.get(task.id) ?? {}
    if (results === undefined || changed_records === undefined) {
      throw new Error(`nothing says what comes of ${task.id}`)
    }
    const changedRecords = Object.entries(changed_records).flatMap(([kind, records]) =>
      Object.entries(records).map(([id, record]) => [`${kind}/${id}`, record] as const),
    )
    const { id, actions } = task
    return { id, actions, results, changedRecords: Object.fromEntries(changedRecords) }
  })
}

function readLines<T>(folder: string, name: string): readonly T[] {
  return readFileSync(join(folder, `${name}.jsonl`), "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as T)
}
