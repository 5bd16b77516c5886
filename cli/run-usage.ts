/** What a run has used up, and of how much: of its budget, and of what any run may come to. */
import type { Run } from "../gen/runwarden/orchestrator/v1/run_pb.ts"

/** The step that a run stands at, and after how many its budget ends it. */
export function stepText({ stepIndex, stepCount, budget }: Run): string {
  const most = budget?.maxSteps ?? 0
  return `${stepIndex} of ${stepCount}${most > 0 && most < stepCount ? `, at most ${most}` : ""}`
}

/** Names and values for the details of a run. */
export function usageDetails({
  usage,
  budget,
  limits,
}: Run): readonly (readonly [string, string])[] {
  if (usage === undefined) return []
  const { toolCalls, inputTokens, outputTokens, costMicros, events, payloadBytes } = usage
  const maxTokens = budget?.maxTokens ?? 0n
  const maxCost = budget?.maxCostMicros ?? 0n
  const tokens = inputTokens + outputTokens
  return [
    ["calls", `${toolCalls}${of(budget?.maxToolCalls ?? 0)}`],
    [
      "tokens",
      tokens + maxTokens === 0n
        ? ""
        : `${tokens}${of(maxTokens)} (${inputTokens} read, ${outputTokens} written)`,
    ],
    [
      "cost",
      costMicros + maxCost === 0n
        ? ""
        : `${Number(costMicros) / 1e6}${maxCost === 0n ? "" : ` of ${Number(maxCost) / 1e6}`}`,
    ],
    ["history", `${events}${of(limits?.maxEvents ?? 0)} entries`],
    [
      "data",
      `${sizeText(payloadBytes)}${limits === undefined ? "" : ` of ${sizeText(limits.maxPayloadBytes)}`}`,
    ],
  ]
}

function of(most: number | bigint): string {
  return BigInt(most) === 0n ? "" : ` of ${most}`
}

function sizeText(bytes: bigint): string {
  const size = Number(bytes)
  if (size < 1_024) return `${size} B`
  const [amount, unit] = size < 1_048_576 ? [size / 1_024, "KiB"] : [size / 1_048_576, "MiB"]
  return `${Number(amount.toFixed(1))} ${unit}`
}
