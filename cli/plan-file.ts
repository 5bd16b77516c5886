/**
 * Plans as people write them: YAML or JSON, checked before anything is sent. Every fault is named
 * with its line; what the mesh refuses later is led back to its line as well.
 */
import { create, type JsonObject, type MessageInitShape } from "@bufbuild/protobuf"
import {
  type Document,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseAllDocuments,
  type YAMLMap,
} from "yaml"
import {
  OnError,
  type Plan,
  PlanSchema,
  type PlanStepSchema,
} from "../gen/runwarden/orchestrator/v1/plan_pb.ts"
import { CliError, type FailedField } from "./failure.ts"
import { PlanReader } from "./plan-reader.ts"
import { fillIn, type Values } from "./plan-values.ts"
import { readSeconds } from "./time-text.ts"

export interface PlanFile {
  readonly plan: Plan
  /** What is asked for, in words. */
  readonly input: string
  readonly threadId: string
  readonly timeoutSeconds: number | undefined
  /** Where a field of the request stands in the file: `line 7`; undefined for what is not in it. */
  lineOf(field: string): string | undefined
}

const planFields = ["name", "input", "thread_id", "timeout", "steps"] as const
const stepFields = ["tool", "version", "title", "arguments", "on_error", "timeout"] as const
const onErrorValues: Readonly<Record<string, OnError>> = {
  stop: OnError.STOP,
  continue: OnError.CONTINUE,
}

/** Reads a plan. Throws one error that names every fault with its line. */
export function readPlan(text: string, fileName: string, values: Values = new Map()): PlanFile {
  const lines = new LineCounter()
  const reader = new PlanReader(lines)
  const document = parse(text, lines, reader)
  const root = document?.contents
  let plan: PlanFile | undefined
  if (document !== undefined && reader.isClean) {
    if (isMap(root)) plan = readRoot(root, document, reader, values)
    else reader.fault(root as Node | null, "a plan is a mapping with name and steps")
  }
  if (plan === undefined || !reader.isClean) throw faulty(fileName, reader.faults)
  return plan
}

function parse(text: string, lines: LineCounter, reader: PlanReader): Document | undefined {
  const documents = parseAllDocuments(text, { lineCounter: lines, prettyErrors: false })
  if (!Array.isArray(documents) || documents.length === 0) {
    reader.faultAt(0, "the file is empty")
    return undefined
  }
  const [first, second] = documents
  for (const error of [...(first?.errors ?? []), ...(first?.warnings ?? [])]) {
    reader.faultAt(error.pos[0], error.message)
  }
  if (second !== undefined) reader.faultAt(second.range[0], "a file holds one plan, not several")
  return first
}

function readRoot(root: YAMLMap, document: Document, reader: PlanReader, values: Values): PlanFile {
  const fields = reader.fields(root, planFields, "a plan")
  const name = reader.text(fields.get("name")) ?? ""
  if (name === "") reader.fault(fields.get("name") ?? root, "the plan needs a name")
  const timeout = reader.text(fields.get("timeout"))
  const used = new Set<string>()
  const stepNodes = fields.get("steps")
  if (!isSeq(stepNodes) || stepNodes.items.length === 0) {
    reader.fault(stepNodes ?? root, "the plan needs steps: a list of at least one")
  }
  const nodes = isSeq(stepNodes) ? (stepNodes.items as Node[]) : []
  const steps = nodes.map((node, index) => {
    return readStep(node, index, document, reader, { values, used })
  })
  for (const name of values.keys()) {
    if (!used.has(name))
      reader.faultAt(0, `nothing in the plan says \${${name}}, but --set gives it`)
  }
  return {
    plan: create(PlanSchema, { name, steps }),
    input: reader.text(fields.get("input")) ?? "",
    threadId: reader.text(fields.get("thread_id")) ?? "",
    timeoutSeconds:
      timeout === undefined
        ? undefined
        : reader.attempt(fields.get("timeout"), () => readSeconds(timeout, "timeout")),
    lineOf: (field) => locate(field, root, nodes, reader),
  }
}

function readStep(
  node: Node,
  index: number,
  document: Document,
  reader: PlanReader,
  filling: { readonly values: Values; readonly used: Set<string> },
): MessageInitShape<typeof PlanStepSchema> {
  if (!isMap(node)) {
    reader.fault(node, `step ${index} is a mapping with tool and arguments`)
    return {}
  }
  const fields = reader.fields(node, stepFields, `step ${index}`)
  const tool = reader.text(fields.get("tool")) ?? ""
  if (tool === "") reader.fault(fields.get("tool") ?? node, `step ${index} needs a tool`)
  const wanted = reader.text(fields.get("on_error"))
  const onError = wanted === undefined ? OnError.UNSPECIFIED : onErrorValues[wanted.toLowerCase()]
  if (onError === undefined) {
    reader.fault(fields.get("on_error"), `on_error is stop or continue, not "${wanted}"`)
  }
  const argumentsNode = fields.get("arguments")
  const timeout = reader.text(fields.get("timeout"))
  const seconds =
    timeout === undefined
      ? undefined
      : reader.attempt(fields.get("timeout"), () => readSeconds(timeout, "timeout"))
  return {
    tool,
    onError: onError ?? OnError.UNSPECIFIED,
    version: reader.text(fields.get("version")) ?? "",
    title: reader.text(fields.get("title")) ?? "",
    ...(argumentsNode === undefined ? {} : { arguments: readArguments() }),
    ...(seconds === undefined ? {} : { timeout: { seconds: BigInt(seconds) } }),
  }

  function readArguments(): JsonObject {
    if (!isMap(argumentsNode)) {
      reader.fault(argumentsNode, `the arguments of step ${index} are a mapping`)
      return {}
    }
    reader.checkArguments(argumentsNode, index)
    if (!reader.isClean) return {}
    const value = argumentsNode.toJS(document) as JsonObject
    const filled = reader.attempt(argumentsNode, () => fillIn(value, filling.values, filling.used))
    return (filled ?? {}) as JsonObject
  }
}

/** `plan.steps[2].arguments/name` leads to that argument, or to the nearest thing above it. */
function locate(
  field: string,
  root: YAMLMap,
  steps: readonly Node[],
  reader: PlanReader,
): string | undefined {
  const match = /^plan\.steps\[(\d+)\][./]?(.*)$/.exec(field)
  if (match === null) {
    const pair = root.get(field.replace(/^plan\.?/, ""), true)
    return pair === undefined ? undefined : reader.place(pair as Node)
  }
  let node = steps[Number(match[1])]
  let place = node === undefined ? undefined : reader.place(node)
  for (const part of (match[2] ?? "").split(/[./[\]]+/).filter((one) => one !== "")) {
    const next =
      isMap(node) || isSeq(node) ? node.get(isSeq(node) ? Number(part) : part, true) : undefined
    if (next === undefined || next === null) break
    node = next as Node
    if (isScalar(node) || isMap(node) || isSeq(node)) place = reader.place(node)
  }
  return place
}

function faulty(fileName: string, faults: readonly FailedField[]): CliError {
  const count = faults.length === 1 ? "a fault" : `${faults.length} faults`
  return new CliError(`The plan ${fileName} has ${count}; nothing was sent.`, {
    reason: "invalid_plan_file",
    next: "Correct the file; docs/plans.md says how to write a plan.",
    fields: faults,
  })
}
