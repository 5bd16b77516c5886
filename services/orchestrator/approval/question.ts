/** The question to a person about one call: what it is asked under, and the bytes it is made of. */
import { isDeepStrictEqual } from "node:util"
import type { JsonObject } from "@bufbuild/protobuf"
import { newId } from "../../../mesh/ids.ts"
import type { Judgement } from "../engine/judgement.ts"
import type { ApprovalRecord, RunRecord, ToolCallRecord } from "../run/snapshot.ts"
import { type BoundText, bind } from "./approval.ts"
import { isEnough } from "./approval-answer.ts"
import { type DefaultRule, type PinnedRule, type RuleBook, ruleFor } from "./approval-rule.ts"

/** What is asked about. */
export interface Asked {
  readonly run: RunRecord
  readonly call: ToolCallRecord
  readonly arguments: JsonObject
  readonly judgement: Judgement
}

/** By which rules. */
export interface Rules {
  readonly book: RuleBook
  readonly defaultRule: DefaultRule
}

/** A question that nobody has answered yet, asked at `now` by the clock of the database. */
export function newQuestion(asked: Asked, rules: Rules, now: number): ApprovalRecord {
  const { run, call, judgement } = asked
  const { pinned, expiryMs } = ruleOf(asked, rules)
  const expireTime = new Date(now + expiryMs)
  const { text, digest } = boundText(asked, pinned, expireTime)
  return {
    workspaceId: run.workspaceId,
    approvalId: newId(),
    runId: run.runId,
    stepIndex: call.stepIndex,
    toolCallId: call.toolCallId,
    tool: call.tool,
    toolVersion: call.toolVersion,
    definitionDigest: call.definitionDigest,
    riskClass: call.riskClass,
    effect: call.effect,
    title: call.title,
    binding: text,
    verdict: judgement.verdict,
    policyVersion: judgement.policyVersion,
    matchedRules: judgement.matchedRules,
    requesterId: run.requesterId,
    rule: pinned,
    digest,
    state: "pending",
    approveCount: 0,
    isGlassBroken: false,
    answers: [],
    deciderId: "",
    comment: "",
    expireTime,
    decideTime: undefined,
    consumeTime: undefined,
    createTime: new Date(now),
  }
}

/**
 * Whether an approval is a yes to exactly this, by the rules of this moment: by its digest, and by
 * what was said.
 */
export function answersTo(approval: ApprovalRecord, asked: Asked, rules: Rules): boolean {
  const { pinned } = ruleOf(asked, rules)
  return (
    boundText(asked, pinned, approval.expireTime).digest === approval.digest &&
    isDeepStrictEqual(approval.rule, pinned) &&
    isEnough(pinned, approval.answers)
  )
}

function ruleOf({ call, judgement }: Asked, { book, defaultRule }: Rules) {
  const { tool, riskClass, effect } = call
  return ruleFor(book, { tool, riskClass, effect, verdict: judgement.verdict }, defaultRule)
}

function boundText(
  { run, call, arguments: args, judgement }: Asked,
  rule: PinnedRule,
  expireTime: Date,
): BoundText {
  return bind({
    workspaceId: run.workspaceId,
    runId: run.runId,
    stepIndex: call.stepIndex,
    title: call.title,
    tool: call.tool,
    toolVersion: call.toolVersion,
    definitionDigest: call.definitionDigest,
    riskClass: call.riskClass,
    effect: call.effect,
    arguments: args,
    policyVersion: judgement.policyVersion,
    verdict: judgement.verdict,
    requesterId: run.requesterId,
    rule,
    expiresAtMs: expireTime.getTime(),
  })
}
