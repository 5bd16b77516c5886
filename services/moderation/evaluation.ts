import type { JsonObject } from "@bufbuild/protobuf"
import { digestOfStruct } from "../../mesh/canonical.ts"
import { type Judgement, judge } from "./judge.ts"
import { InvalidPolicy, type JudgeInput, type Policy } from "./policy.ts"
import { UnknownPolicyVersion } from "./policy-book.ts"
import { inSlices, OutOfTime } from "./slices.ts"

/** A judgement with what the decision says about how it came to be. */
export interface Evaluation {
  readonly judgement: Judgement
  /** Empty where the content has no digest, which no caller can take for the content's. */
  readonly contentDigest: string
  readonly latencyMicros: number
}

/**
 * Loads the policy and judges. Whatever goes wrong is a failed judgement; only a caller that has
 * gone makes it reject, because then nobody waits for a decision.
 */
export async function evaluate(
  load: () => Policy | Promise<Policy>,
  input: JudgeInput,
  options: { readonly signal: AbortSignal; readonly limitMs: number },
): Promise<Evaluation> {
  const start = performance.now()
  const judgement = await judgeOrFail(load, input, options)
  const contentDigest = digestOf(input.content)
  return {
    judgement:
      contentDigest === "" && judgement.kind !== "failed"
        ? { kind: "failed", failure: "the content has no canonical form", matches: [] }
        : judgement,
    contentDigest,
    latencyMicros: Math.round((performance.now() - start) * 1_000),
  }
}

async function judgeOrFail(
  load: () => Policy | Promise<Policy>,
  input: JudgeInput,
  options: { readonly signal: AbortSignal; readonly limitMs: number },
): Promise<Judgement> {
  try {
    return await inSlices(judge(await load(), input), options)
  } catch (error) {
    options.signal.throwIfAborted()
    return { kind: "failed", failure: failureOf(error), matches: [] }
  }
}

function digestOf(content: JsonObject): string {
  try {
    return digestOfStruct(content)
  } catch {
    return ""
  }
}

function failureOf(error: unknown): string {
  if (error instanceof OutOfTime) return error.message
  if (error instanceof InvalidPolicy) return `the policy cannot be used: ${error.message}`
  if (error instanceof UnknownPolicyVersion) return "the active policy version does not exist"
  return "the policy could not be loaded"
}
