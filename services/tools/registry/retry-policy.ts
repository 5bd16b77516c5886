/** How often and how soon a failed call of a tool is sent again: what a definition may say of it. */
import { create } from "@bufbuild/protobuf"
import { type Duration, durationFromMs, durationMs } from "@bufbuild/protobuf/wkt"
import {
  Effect,
  type RetryPolicy,
  RetryPolicySchema,
  type ToolDefinition,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"

const usualAttempts = 8
const usualInitialMs = 200
const usualMaxMs = 5_000
const mostAttempts = 100
const mostReasons = 32
const longestBackoffMs = 300_000
const reasonPattern = /^[a-z0-9_]{1,128}$/

/** The policy that holds for a definition: the declared one, with defaults where it says nothing. */
export function retryPolicyOf({ retry }: Pick<ToolDefinition, "retry">): RetryPolicy {
  const initialMs = millisOf(retry?.initialBackoff) ?? usualInitialMs
  const maxMs = millisOf(retry?.maxBackoff) ?? Math.max(usualMaxMs, initialMs)
  return create(RetryPolicySchema, {
    maxAttempts: retry === undefined || retry.maxAttempts === 0 ? usualAttempts : retry.maxAttempts,
    initialBackoff: durationFromMs(initialMs),
    maxBackoff: durationFromMs(maxMs),
    retryableReasons: retry?.retryableReasons ?? [],
  })
}

/** Why the retry policy of a definition cannot be used, or undefined. */
export function faultOfRetry({
  retry,
  effect,
}: Pick<ToolDefinition, "retry" | "effect">): string | undefined {
  if (retry === undefined) return undefined
  const { maxAttempts, initialBackoff, maxBackoff, retryableReasons } = retry
  if (maxAttempts > mostAttempts) return `More than ${mostAttempts} attempts.`
  for (const backoff of [initialBackoff, maxBackoff]) {
    const backoffMs = millisOf(backoff) ?? 1
    if (!(backoffMs >= 1 && backoffMs <= longestBackoffMs)) {
      return `A back-off is from 1 to ${longestBackoffMs} milliseconds.`
    }
  }
  if ((millisOf(maxBackoff) ?? longestBackoffMs) < (millisOf(initialBackoff) ?? usualInitialMs)) {
    return "The longest back-off is shorter than the first one."
  }
  if (retryableReasons.length > mostReasons) return `More than ${mostReasons} retryable reasons.`
  if (new Set(retryableReasons).size < retryableReasons.length) return "A reason stands twice."
  if (!retryableReasons.every((reason) => reasonPattern.test(reason))) {
    return "A reason is not of lower-case letters, digits and underscores."
  }
  const isRepeatable = effect === Effect.READ || effect === Effect.KEYED
  if (retryableReasons.length > 0 && !isRepeatable) {
    return "An unsafe tool is not called again, whatever its error."
  }
  return undefined
}

function millisOf(duration: Duration | undefined): number | undefined {
  return duration === undefined ? undefined : durationMs(duration)
}
