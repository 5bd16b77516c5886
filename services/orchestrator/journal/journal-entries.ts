/**
 * The entries that a change adds to its run's history, in their stored form: the encoding of a
 * ListRunEventsResponse without sequences and times, which belong to the row.
 *
 * Written by hand, for every run writes two dozen of them: a general encoder costs ten times as much.
 * A test holds it against that encoder.
 */
import type { GivenAnswer } from "../approval/approval-answer.ts"
import type { CallUsage, Meter } from "../budget/budget.ts"
import type { Judgement } from "../engine/judgement.ts"
import type { ApprovalRecord, RunRecord, ToolCallRecord } from "../run/snapshot.ts"
import {
  approvalStateEnum,
  runStateEnum,
  subjectEnum,
  toolCallStateEnum,
  verdictEnum,
} from "../state-enum.ts"

/** The field of RunEvent that holds each kind. */
export const entryKinds = {
  runStarted: 10,
  runStateChanged: 11,
  toolCallStateChanged: 12,
  contentModerated: 13,
  approvalStateChanged: 14,
  approvalAnswered: 20,
  budgetWarned: 21,
} as const

/** A field's value by its number, from 1; what is empty is left out, as proto3 does. */
type Field = string | number | undefined

const firstCapacity = 512
const eventsTag = (1 << 3) | 2
const maxVarintBytes = 5

export class JournalEntries {
  #bytes = Buffer.allocUnsafe(firstCapacity)
  #length = 0
  #count = 0

  get count(): number {
    return this.#count
  }

  get bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length)
  }

  runStarted({ requesterId, planName, stepCount }: RunRecord): void {
    this.#add(entryKinds.runStarted, [requesterId, planName, stepCount])
  }

  runChanged({ state, reason }: RunRecord): void {
    this.#add(entryKinds.runStateChanged, [runStateEnum[state], reason])
  }

  toolCallChanged(call: ToolCallRecord, executionMs: number, usage?: CallUsage): void {
    const { toolCallId, stepIndex, tool, state, reason } = call
    const millis = Math.max(0, Math.round(executionMs))
    const fields = [toolCallId, stepIndex, tool, toolCallStateEnum[state], reason, millis]
    if (usage === undefined) {
      this.#add(entryKinds.toolCallStateChanged, fields)
      return
    }
    const { inputTokens, outputTokens, costMicros } = usage
    this.#add(entryKinds.toolCallStateChanged, [...fields, inputTokens, outputTokens, costMicros])
  }

  /** `call` is absent for a run's input; where it is there, so is its step, also the first. */
  moderated(judgement: Judgement, call: ToolCallRecord | undefined): void {
    const { subject, verdict, decisionId, failure } = judgement
    const fields = [
      subjectEnum[subject],
      verdictEnum[verdict],
      decisionId,
      call?.stepIndex,
      failure,
      call?.tool,
    ]
    this.#add(entryKinds.contentModerated, fields, 4)
  }

  approvalChanged(approval: ApprovalRecord, nowMs: number): void {
    const { approvalId, stepIndex, state, deciderId, createTime } = approval
    const millis = state === "pending" ? 0 : Math.max(0, Math.round(nowMs - createTime.getTime()))
    const isGlass = state === "approved" && approval.isGlassBroken ? 1 : 0
    const fields = [approvalId, stepIndex, approvalStateEnum[state], deciderId, millis, isGlass]
    this.#add(entryKinds.approvalStateChanged, fields)
  }

  /** `approval` counts the answer already. */
  approvalAnswered(approval: ApprovalRecord, given: GivenAnswer): void {
    const { approvalId, stepIndex, approveCount, rule } = approval
    this.#add(entryKinds.approvalAnswered, [
      approvalId,
      stepIndex,
      given.actorId,
      given.answer === "approve" ? 1 : 0,
      given.delegation?.delegatorId,
      given.breakGlassReason === undefined ? 0 : 1,
      approveCount,
      rule.quorum,
    ])
  }

  budgetWarned({ budget, used, limit }: Meter): void {
    this.#add(entryKinds.budgetWarned, [budget, used, limit])
  }

  /** `present`: a field with presence, which is written also where it is 0. */
  #add(kind: number, fields: readonly Field[], present?: number): void {
    const size = sizeOf(fields, present)
    const kindTag = (kind << 3) | 2
    const eventSize = varintSize(kindTag) + varintSize(size) + size
    this.#reserve(1 + maxVarintBytes + eventSize)
    this.#byte(eventsTag)
    this.#varint(eventSize)
    this.#varint(kindTag)
    this.#varint(size)
    fields.forEach((field, index) => {
      if (!isWritten(field, index, present)) return
      const number = index + 1
      if (typeof field === "string") {
        this.#byte((number << 3) | 2)
        this.#varint(Buffer.byteLength(field))
        this.#length += this.#bytes.write(field, this.#length)
      } else {
        this.#byte(number << 3)
        this.#varint(field ?? 0)
      }
    })
    this.#count += 1
  }

  #byte(value: number): void {
    this.#bytes[this.#length++] = value
  }

  #varint(value: number): void {
    let rest = value
    while (rest > 127) {
      this.#byte((rest % 128) | 128)
      rest = Math.floor(rest / 128)
    }
    this.#byte(rest)
  }

  #reserve(size: number): void {
    const needed = this.#length + size
    if (needed <= this.#bytes.length) return
    const grown = Buffer.allocUnsafe(Math.max(needed, this.#bytes.length * 2))
    this.#bytes.copy(grown, 0, 0, this.#length)
    this.#bytes = grown
  }
}

function isWritten(field: Field, index: number, present: number | undefined): boolean {
  if (field === undefined || field === "") return false
  return field !== 0 || index + 1 === present
}

function sizeOf(fields: readonly Field[], present: number | undefined): number {
  let size = 0
  for (let index = 0; index < fields.length; index++) {
    const field = fields[index]
    if (!isWritten(field, index, present)) continue
    if (typeof field === "string") {
      const length = Buffer.byteLength(field)
      size += 1 + varintSize(length) + length
    } else {
      size += 1 + varintSize(field ?? 0)
    }
  }
  return size
}

function varintSize(value: number): number {
  let size = 1
  for (let rest = value; rest > 127; rest = Math.floor(rest / 128)) size += 1
  return size
}
