// Events of many workspaces in one call: who may send them, what is stored, and what is refused.
import { createValidator } from "@bufbuild/protovalidate"
import fc from "fast-check"
import { afterAll, beforeAll, expect, test } from "vitest"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { type Event, EventSchema } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import { metadataOf, reasonOf } from "../../mesh/errors.ts"
import { actingAs, memberSubject, type Subject, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { brokenField } from "./event-check.ts"
import {
  approval,
  call,
  event,
  run,
  someone,
  startTelemetry,
  times,
  verdict,
} from "./telemetry-harness.ts"

let mesh: Awaited<ReturnType<typeof startTelemetry>>
beforeAll(async () => {
  mesh = await startTelemetry()
})
afterAll(() => mesh[Symbol.asyncDispose]())

const itself = serviceSubject("orchestrator", "")

function send(
  workspaces: readonly { workspaceId: string; events: Event[] }[],
  as: Subject = itself,
) {
  return mesh.events.batchRecordEvents({ workspaces: [...workspaces] }, actingAs(as))
}

test("events of many workspaces are stored in one call, each with its own", async () => {
  const members = times(20, () => someone())
  const workspaces = members.map(({ workspaceId }, index) => ({
    workspaceId,
    events: [...times(index + 1, () => verdict("allowed")), run("succeeded", { elapsedMs: index })],
  }))
  expect(await send(workspaces)).toMatchObject({ recordedCount: 230, refused: [] })
  expect((await send(workspaces)).recordedCount).toBe(0)
  for (const [index, member] of members.entries()) {
    expect(await metricsOf(member)).toMatchObject({
      moderationCount: index + 1,
      runsByState: { succeeded: 1 },
      runLatencyP50Millis: index,
    })
  }
})

test("an id that two workspaces use is an event of each", async () => {
  const [one, other] = [someone(), someone()]
  const shared = verdict("blocked")
  const workspaces = [one, other].map(({ workspaceId }) => ({ workspaceId, events: [shared] }))
  expect((await send(workspaces)).recordedCount).toBe(2)
  expect(await metricsOf(one)).toMatchObject({ moderationCount: 1 })
  expect(await metricsOf(other)).toMatchObject({ moderationCount: 1 })
})

test("what breaks a rule is named and not stored; all else is", async () => {
  const [one, other] = [someone(), someone()]
  const sent = await send([
    {
      workspaceId: one.workspaceId,
      events: [verdict("blocked"), { ...verdict("allowed"), eventId: "no" }],
    },
    {
      workspaceId: other.workspaceId,
      events: [{ ...run("failed\0"), runId: newId() }, verdict("sideways"), verdict("flagged")],
    },
  ])
  expect(sent.recordedCount).toBe(2)
  expect(sent.refused).toMatchObject([
    { workspaceIndex: 0, eventIndex: 1, field: "event_id" },
    { workspaceIndex: 1, eventIndex: 0, field: "run_changed.state" },
    { workspaceIndex: 1, eventIndex: 1, field: "moderated.verdict" },
  ])
  expect(await metricsOf(one)).toMatchObject({ moderationCount: 1, moderationBlockedCount: 1 })
  expect(await metricsOf(other)).toMatchObject({ moderationCount: 1, runsByState: {} })
})

test("only a service itself, outside any workspace, sends a batch", async () => {
  const { workspaceId } = someone()
  const workspaces = [{ workspaceId, events: [verdict("blocked")] }]
  const refused = [
    serviceSubject("orchestrator", workspaceId),
    memberSubject(workspaceId, newId(), Role.ADMIN),
    memberSubject("", newId(), Role.ADMIN),
    { kind: "operator", workspaceId: "", actorId: newId(), role: Role.UNSPECIFIED } as const,
  ]
  for (const subject of refused) {
    const sent = send(workspaces, subject)
    expect(await sent.then(() => "stored", reasonOf)).toBe("CALLER_NOT_ALLOWED")
  }
  const alone = mesh.events.recordEvents(
    { workspaceId, events: [verdict("blocked")] },
    actingAs(itself),
  )
  expect(await alone.then(() => "stored", reasonOf)).toBe("WORKSPACE_MISMATCH")
  expect(await metricsOf(someone(Role.VIEWER, workspaceId))).toMatchObject({ moderationCount: 0 })
})

test("a workspace twice, no workspace, no uuid and too many events are refused as a whole", async () => {
  const workspaceId = newId()
  const events = [verdict("allowed")]
  const twice = send([
    { workspaceId, events },
    { workspaceId: workspaceId.toUpperCase(), events },
  ])
  const error = await twice.catch((caught: unknown) => caught)
  expect(reasonOf(error)).toBe("INVALID_REQUEST")
  expect(metadataOf(error)).toEqual({ field: "workspaces[1].workspace_id" })
  expect(await send([]).then(() => "stored", reasonOf)).toBe("INVALID_REQUEST")
  const nameless = send([{ workspaceId: "", events }])
  expect(await nameless.then(() => "stored", reasonOf)).toBe("INVALID_REQUEST")
  const tooMany = send(
    times(2, () => ({ workspaceId: newId(), events: times(2_501, () => run("running")) })),
  )
  expect(await tooMany.then(() => "stored", reasonOf)).toBe("LIMIT_EXCEEDED")
})

test("the check by hand refuses what the schema refuses, and what cannot be stored", () => {
  const validator = createValidator()
  const text = fc.oneof(
    fc.string({ maxLength: 3 }),
    fc.constantFrom("", "x".repeat(32), "x".repeat(33), "😀".repeat(32), "😀".repeat(33)),
    fc.constantFrom("x".repeat(64), "x".repeat(65), "😀".repeat(64), "😀".repeat(200)),
    fc.constantFrom("x".repeat(200), "x".repeat(201), "😀".repeat(201), "allowed", "Blocked"),
  )
  const id = fc.oneof(
    fc.constantFrom("", "no", newId(), newId().toUpperCase(), `${newId()}0`, `{${newId()}}`),
    fc.uuid().map((value) => value.replaceAll("-", "")),
  )
  const valid = fc.constantFrom(
    run("failed", { reason: "tool_failed" }),
    call("succeeded"),
    verdict("allowed"),
    approval("approved", 1),
    event({
      case: "resourceChanged",
      value: { resource: "project", resourceId: "x", change: "created" },
    }),
  )
  const broken = fc.tuple(valid, fc.nat(6), text, id).map(([base, what, words, uuid]): Event => {
    const copy = structuredClone(base)
    if (what === 0) copy.eventId = uuid
    else if (what === 1) copy.runId = uuid
    else if (what === 2) copy.traceId = words
    else if (what === 3) delete copy.occurTime
    else if (what === 4) copy.payload = { case: undefined }
    else {
      const value = copy.payload.value as unknown as Record<string, unknown>
      const names = Object.keys(value).filter(
        (name) => typeof value[name] === "string" && name[0] !== "$",
      )
      const name = names[words.length % names.length] ?? ""
      value[name] = name === "approvalId" ? uuid : words
    }
    return copy
  })
  fc.assert(
    fc.property(fc.oneof(valid, broken), (each) => {
      const result = validator.validate(EventSchema, each)
      if (result.kind === "error") throw result.error
      const paths = (result.violations ?? []).map(({ field }) =>
        field
          .map((step) => (step.kind === "field" || step.kind === "oneof" ? step.name : ""))
          .join("."),
      )
      const found = brokenField(each)
      if (found === undefined) expect(paths).toEqual([])
      else if (!JSON.stringify(each, noBigint).includes("\\u0000")) expect(paths).toContain(found)
    }),
    { seed: 4_417, numRuns: 3_000 },
  )
  const odd = [
    { ...run("running"), occurTime: { seconds: 10n ** 15n, nanos: 0 } },
    { ...run("running"), occurTime: { seconds: 0n, nanos: 1_000_000_000 } },
    { ...run("running"), traceId: "\0" },
  ] as Event[]
  expect(odd.map(brokenField)).toEqual(["occur_time", "occur_time", "trace_id"])
})

function noBigint(_: string, value: unknown): unknown {
  return typeof value === "bigint" ? String(value) : value
}

async function metricsOf(who: Subject) {
  const { workspaceId } = who
  return (await mesh.metrics.getMetrics({ workspaceId }, actingAs(who))).metrics
}
