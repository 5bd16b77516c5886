/**
 * One question to moderation, and the only way its answer is read. Whatever is not an explicit,
 * complete and matching verdict is `blocked` with `moderation_unavailable`: there is no default and
 * no switch that lets anything through.
 */
import { setTimeout as sleep } from "node:timers/promises"
import type { JsonObject, MessageInitShape } from "@bufbuild/protobuf"
import type { CallOptions, Client } from "@connectrpc/connect"
import {
  type Decision,
  Verdict as VerdictEnum,
} from "../../../gen/runwarden/moderation/v1/decision_pb.ts"
import type {
  ModerateRequestSchema,
  ModerateResponse,
  ModerationService,
} from "../../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { digestOfStruct } from "../../../mesh/canonical.ts"
import { defaultTimeoutMs } from "../../../mesh/deadline.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import type { Verdict } from "../action.ts"
import type { Denial, RunRecord, ToolCallRecord } from "../run/snapshot.ts"
import type { Scope } from "../scope.ts"
import { effectEnum, riskClassEnum, type SubjectName, subjectEnum } from "../state-enum.ts"

export interface Judgement {
  readonly subject: SubjectName
  readonly verdict: Verdict
  /** Empty where none could be had. */
  readonly decisionId: string
  readonly policyVersion: string
  readonly matchedRules: readonly string[]
  readonly categories: readonly string[]
  /** SHA-256 of the canonical content; empty where it has none. */
  readonly digest: string
  /** `moderation_unavailable`, or empty where moderation decided. */
  readonly failure: string
}

export interface Question {
  readonly subject: SubjectName
  readonly content: JsonObject
  /** SHA-256 of the canonical content, where it is known. */
  readonly digest?: string | undefined
  readonly run: RunRecord
  /** Absent for a run's input. */
  readonly call?: ToolCallRecord
  /** Full names of the tools whose results are part of the content. */
  readonly provenance: readonly string[]
  /** Full names of the tools called so far. */
  readonly history: readonly string[]
}

const uuidPattern = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i

/** Asks moderation, again while it is away and the scope lasts. Never throws. */
export async function judge(
  moderation: Client<typeof ModerationService>,
  question: Question,
  options: CallOptions,
  scope: Scope,
): Promise<Judgement> {
  const { subject, content, run, call } = question
  let digest = ""
  try {
    digest = question.digest ?? digestOfStruct(content)
    const answer = await ask(
      moderation,
      {
        workspaceId: run.workspaceId,
        subject: subjectEnum[subject],
        content,
        runId: run.runId,
        ...(call === undefined
          ? {}
          : {
              stepIndex: call.stepIndex,
              tool: call.tool,
              riskClass: riskClassEnum[call.riskClass],
              effect: effectEnum[call.effect],
            }),
        provenance: [...question.provenance],
        history: [...question.history],
      },
      options,
      scope,
    )
    return readDecision(answer?.decision, question, digest) ?? unavailable(subject, digest)
  } catch {
    return unavailable(subject, digest)
  }
}

/** What moderation says when it could not be asked, and may be asked again: a decision too many harms nobody. */
const awayReasons: ReadonlySet<string | undefined> = new Set([
  "DEPENDENCY_UNAVAILABLE",
  "SHUTTING_DOWN",
])
const maxAsks = 3
const pauseMs = 100

/** Asks until moderation is there, a few times, all within the one deadline. */
async function ask(
  moderation: Client<typeof ModerationService>,
  request: MessageInitShape<typeof ModerateRequestSchema>,
  options: CallOptions,
  scope: Scope,
): Promise<ModerateResponse> {
  const deadline = performance.now() + (options.timeoutMs ?? defaultTimeoutMs)
  for (let asked = 1; ; asked++) {
    try {
      const timeoutMs = Math.max(1, deadline - performance.now())
      return await moderation.moderate(request, { ...options, timeoutMs })
    } catch (error) {
      const waitMs = pauseMs * 2 ** (asked - 1) * (0.5 + Math.random())
      const isLast = asked >= maxAsks || performance.now() + waitMs >= deadline
      if (isLast || !awayReasons.has(reasonOf(error))) throw error
      await scope.race(sleep(waitMs))
    }
  }
}

/** The denial that a blocked judgement stands for. */
export function denialOf(judgement: Judgement): Denial {
  return {
    decisionId: judgement.decisionId,
    verdict: "blocked",
    categories: judgement.categories,
    matchedRules: judgement.matchedRules,
    policyVersion: judgement.policyVersion,
    approvable: false,
    failure: judgement.failure,
  }
}

function unavailable(subject: SubjectName, digest: string): Judgement {
  return {
    subject,
    verdict: "blocked",
    decisionId: "",
    policyVersion: "",
    matchedRules: [],
    categories: [],
    digest,
    failure: "moderation_unavailable",
  }
}

/** The judgement, only if the decision is about this very content and says so completely. */
function readDecision(
  decision: Decision | undefined,
  { subject, run, call }: Question,
  digest: string,
): Judgement | undefined {
  if (decision === undefined) return undefined
  const verdict = toVerdict(decision.verdict)
  const scores = Object.entries(decision.categories)
  const isComplete =
    verdict !== undefined &&
    decision.contentDigest === digest &&
    decision.workspaceId === run.workspaceId &&
    decision.runId === run.runId &&
    decision.stepIndex === call?.stepIndex &&
    decision.tool === (call?.tool ?? "") &&
    decision.subject === subjectEnum[subject] &&
    uuidPattern.test(decision.decisionId) &&
    scores.every(([, score]) => score >= 0 && score <= 1) &&
    (decision.failure === "" ? decision.policyVersion !== "" : verdict === "blocked")
  if (!isComplete) return undefined
  const categories = scores.sort(([, a], [, b]) => b - a)
  return {
    subject,
    verdict,
    decisionId: decision.decisionId,
    policyVersion: decision.policyVersion,
    matchedRules: decision.matchedRules.map((rule) => rule.ruleId),
    categories: categories.map(([category]) => category),
    digest,
    failure: decision.failure === "" ? "" : "moderation_unavailable",
  }
}

function toVerdict(value: VerdictEnum): Verdict | undefined {
  switch (value) {
    case VerdictEnum.ALLOWED:
      return "allowed"
    case VerdictEnum.FLAGGED:
      return "flagged"
    case VerdictEnum.BLOCKED:
      return "blocked"
    default:
      return undefined
  }
}
