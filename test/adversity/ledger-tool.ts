/**
 * A tool provider as somebody else might write it, and as badly behaved as its arguments say. Every
 * effect is a line in its file; what it answers, and when, is another matter.
 *
 * A key is: unknown → running → done, or unknown → sealed. Sealed keys never run.
 *
 * 1. KEYED: a key that is done, or running, is answered with its first result and changes nothing.
 * 2. UNSAFE and READ: every request is an effect; whoever sends twice has it twice.
 * 3. Silence and crashes are for the first request under a key; further ones are served.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf"
import { durationFromMs } from "@bufbuild/protobuf/wkt"
import {
  Effect,
  RiskClass,
  type ToolDefinitionSchema,
} from "../../gen/runwarden/tools/v1/tool_pb.ts"
import {
  type ExecuteToolRequest,
  type ExecuteToolResponseSchema,
  type GetOutcomeRequest,
  type GetOutcomeResponseSchema,
  Outcome,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import type { Caller } from "../../mesh/identity.ts"
import type { Runtime } from "../../mesh/service.ts"
import type { LedgerLine, LedgerWriter } from "./ledger-file.ts"

/** What may go wrong with a call, beside nothing. */
export const modes = [
  "hang_before",
  "hang_after",
  "crash_before",
  "crash_after",
  /** Two messages where one belongs. */
  "twice",
  /** The status of a success, without the message. */
  "none",
  /** The answer comes after `delay_ms`, and with it the effect before that. */
  "late",
  /** The effect itself comes after `delay_ms`, however long the caller has been gone. */
  "late_effect",
  /** An answer close to what may be stored, and one beyond. */
  "big",
  "too_big",
  /** A failure that the tool reports as its result. */
  "error",
] as const

/** What is the same however often it is asked for. */
const answers: ReadonlySet<Mode | undefined> = new Set<Mode>(["big", "too_big", "error"])

export type Mode = (typeof modes)[number]
export type ToolAnswer = MessageInitShape<typeof ExecuteToolResponseSchema>

/** How an answer goes over the wire. */
export interface Reply {
  readonly messages: readonly ToolAnswer[]
  readonly isHeldBack: boolean
}

/** The call did not run, and never will. */
export class Refusal extends Error {}

const classes = { read: Effect.READ, keyed: Effect.KEYED, unsafe: Effect.UNSAFE } as const

/** `blind` is an unsafe tool that keeps no record: it can never tell what became of a call. */
export const toolNames = ["read", "keyed", "unsafe", "blind"] as const

export const definitions: MessageInitShape<typeof ToolDefinitionSchema>[] = toolNames.flatMap(
  (name) =>
    [RiskClass.LOW, RiskClass.HIGH].map((riskClass) => ({
      name: riskClass === RiskClass.HIGH ? `note.${name}.high` : `note.${name}`,
      version: "1.0.0",
      title: `Note (${name})`,
      description: "Writes one line.",
      riskClass,
      effect: classes[name === "blind" ? "unsafe" : name],
      // Longer than any outage here, so that a run which gives up has done so for a reason of its own.
      retry: {
        maxAttempts: 100,
        initialBackoff: durationFromMs(100),
        maxBackoff: durationFromMs(1_000),
      },
      inputSchema: {
        type: "object",
        properties: {
          text: { type: "string", maxLength: 200 },
          mode: { enum: [...modes] },
          delay_ms: { type: "integer", minimum: 0, maximum: 60_000 },
        },
        required: ["text"],
        additionalProperties: false,
      },
      outputSchema: {
        type: "object",
        properties: { next: { type: "string" }, padding: { type: "string" } },
        required: ["next"],
      },
    })),
)

/** What a call with this text answers; a plan's next step refers to it. */
export function nextText(text: string): string {
  return `${text}.`
}

type KeyState =
  | { readonly kind: "running"; readonly answer: Promise<ToolAnswer> }
  | { readonly kind: "done"; readonly answer: ToolAnswer }
  | { readonly kind: "sealed" }

export class LedgerTool {
  readonly #ledger: LedgerWriter
  readonly #reached: Runtime["reached"]
  readonly #keys = new Map<string, KeyState>()
  readonly #attempts = new Map<string, number>()

  /** `lines` is what earlier lives of this provider wrote. */
  constructor(ledger: LedgerWriter, lines: readonly LedgerLine[], reached: Runtime["reached"]) {
    this.#ledger = ledger
    this.#reached = reached
    for (const line of lines) {
      const id = keyOf(line.workspaceId, line.key)
      if (line.kind === "attempt") this.#attempts.set(id, (this.#attempts.get(id) ?? 0) + 1)
      if (line.kind === "sealed") this.#keys.set(id, { kind: "sealed" })
      if (line.kind === "effect") this.#keys.set(id, { kind: "done", answer: plain(line.text) })
    }
  }

  async execute(request: ExecuteToolRequest, caller: Caller): Promise<Reply> {
    const { idempotencyKey, arguments: args = {} } = request
    const line = lineOf(request, caller)
    const id = keyOf(caller.workspaceId, idempotencyKey)
    const attempt = (this.#attempts.get(id) ?? 0) + 1
    this.#attempts.set(id, attempt)
    const asked = args.mode as Mode | undefined
    const mode = attempt === 1 || answers.has(asked) ? asked : undefined
    const delayMs = Number(args.delay_ms ?? 0)
    await this.#ledger.append({ ...line, kind: "attempt" })
    if (mode === "crash_before") process.kill(process.pid, "SIGKILL")
    if (mode === "hang_before") return nothing

    const state = this.#keys.get(id)
    if (state?.kind === "sealed") throw new Refusal("This call was given up.")
    if (line.effect === "keyed" && state !== undefined) return once(await state.answer)
    const answer = this.#take(line, mode, delayMs)
    this.#keys.set(id, { kind: "running", answer })
    this.#keys.set(id, { kind: "done", answer: await answer })
    this.#reached("after_effect")

    if (mode === "crash_after") process.kill(process.pid, "SIGKILL")
    if (mode === "late" || asked === undefined) await sleep(delayMs)
    if (mode === "hang_after") return nothing
    if (mode === "none") return { messages: [], isHeldBack: false }
    if (mode === "twice") return { messages: [await answer, await answer], isHeldBack: false }
    return once(await answer)
  }

  async outcome(
    { tool, idempotencyKey }: GetOutcomeRequest,
    caller: Caller,
  ): Promise<MessageInitShape<typeof GetOutcomeResponseSchema>> {
    if (tool.startsWith("note.blind")) return { outcome: Outcome.UNKNOWN }
    const id = keyOf(caller.workspaceId, idempotencyKey)
    const state = this.#keys.get(id)
    if (state?.kind === "running") return { outcome: Outcome.UNKNOWN }
    if (state?.kind === "done") return { outcome: Outcome.COMPLETED, response: state.answer }
    this.#keys.set(id, { kind: "sealed" })
    await this.#ledger.append({
      kind: "sealed",
      at: Date.now(),
      workspaceId: caller.workspaceId,
      tool,
      key: idempotencyKey,
      effect: "",
      digest: "",
      actorId: caller.actorId,
      runId: "",
      text: "",
    })
    return { outcome: Outcome.NOT_EXECUTED }
  }

  async #take(line: LedgerLine, mode: Mode | undefined, delayMs: number): Promise<ToolAnswer> {
    if (mode === "late_effect") await sleep(delayMs)
    if (mode === "error") return { outcome: { case: "error", value: noted } }
    await this.#ledger.append({ ...line, at: Date.now(), kind: "effect" })
    const size = mode === "big" ? 200 * 1024 : mode === "too_big" ? 1024 * 1024 : 0
    return size === 0 ? plain(line.text) : result({ next: line.text, padding: "x".repeat(size) })
  }
}

const nothing: Reply = { messages: [], isHeldBack: true }
const noted = { reason: "not_noted", message: "The note was not taken.", metadata: {} }

function once(answer: ToolAnswer): Reply {
  return { messages: [answer], isHeldBack: false }
}

function lineOf(request: ExecuteToolRequest, caller: Caller): LedgerLine {
  const { tool, idempotencyKey, runId, arguments: args = {} } = request
  const [, name = ""] = tool.split(".")
  return {
    kind: "effect",
    at: Date.now(),
    workspaceId: caller.workspaceId,
    tool,
    key: idempotencyKey,
    effect: name === "read" || name === "keyed" ? name : "unsafe",
    digest: digestOfStruct(args),
    actorId: caller.actorId,
    runId,
    text: nextText(String(args.text)),
  }
}

function plain(text: string): ToolAnswer {
  return result({ next: text })
}

function result(value: JsonObject): ToolAnswer {
  return { outcome: { case: "result", value } }
}

function keyOf(workspaceId: string, key: string): string {
  return `${workspaceId} ${key}`
}
