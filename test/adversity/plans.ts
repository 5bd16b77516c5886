/** What the runs of a workload do, and what their calls must have asked for when they did it. */
import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf"
import type { PlanSchema } from "../../gen/runwarden/orchestrator/v1/plan_pb.ts"
import { digestOfStruct } from "../../mesh/canonical.ts"
import type { EffectClass, ExpectedStep } from "./history.ts"
import { type Mode, nextText } from "./ledger-tool.ts"

/** What one run is to be. */
export interface RunShape {
  readonly effect: EffectClass
  readonly stepCount: number
  /** The step that needs a person's yes. */
  readonly highStep?: number
  /** An unsafe tool that cannot tell what became of its calls. */
  readonly isBlind?: boolean
  readonly trouble?: { readonly step: number; readonly mode: Mode; readonly delayMs?: number }
  /** How long the tool of every step takes. */
  readonly delayMs?: number
  /** Asks for the end of the run so long after its start. */
  readonly cancelAfterMs?: number
}

export interface PlannedRun {
  readonly plan: MessageInitShape<typeof PlanSchema>
  readonly steps: readonly ExpectedStep[]
}

/** Each step's text is made from the result of the one before, so that a wrong result shows. */
export function planRun(name: string, shape: RunShape): PlannedRun {
  const { effect, stepCount, highStep, isBlind = false, trouble, delayMs = 0 } = shape
  const tool = `note.${isBlind && effect === "unsafe" ? "blind" : effect}`
  let text = name
  const steps: ExpectedStep[] = []
  const planned: { readonly tool: string; readonly arguments: JsonObject }[] = []
  for (let step = 0; step < stepCount; step++) {
    const troubled = trouble?.step === step ? trouble : undefined
    const isHigh = highStep === step
    const fullName = isHigh ? `ledger/${tool}.high` : `ledger/${tool}`
    const wait = troubled?.delayMs ?? delayMs
    const extra = {
      ...(troubled === undefined ? {} : { mode: troubled.mode }),
      ...(wait > 0 ? { delay_ms: wait } : {}),
    }
    const given = step === 0 ? text : { $from: step - 1, path: "/next" }
    planned.push({ tool: fullName, arguments: { text: given, ...extra } })
    steps.push({
      tool: fullName,
      effect,
      isHigh,
      digest: digestOfStruct({ text, ...extra }),
      mode: troubled?.mode ?? "",
    })
    text = nextText(text)
  }
  return { plan: { name: "adversity", steps: planned }, steps }
}
