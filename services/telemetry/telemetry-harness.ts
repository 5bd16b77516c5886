/** What the tests of this service share: the service on a real database, a clock, and events. */
import { create, type MessageInitShape } from "@bufbuild/protobuf"
import { timestampFromMs } from "@bufbuild/protobuf/wkt"
import { Role } from "../../gen/runwarden/options/v1/access_pb.ts"
import { AlertService } from "../../gen/runwarden/telemetry/v1/alert_service_pb.ts"
import { type Event, EventSchema } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { MetricsService } from "../../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { actingAs, memberSubject, type Subject, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { testClient, testDatabase, testRuntime } from "../../mesh/testing.ts"
import { readAlertConfig } from "./config.ts"
import { createTelemetry } from "./service.ts"

export type Payload = NonNullable<MessageInitShape<typeof EventSchema>["payload"]>

/** Events that tests make are of any time; only those of retention want less. */
export async function startTelemetry(retentionMs = 3_650 * 86_400_000) {
  const stack = new AsyncDisposableStack()
  const database = stack.use(await testDatabase("telemetry"))
  const clock = { aheadMs: 0 }
  const now = () => Date.now() + clock.aheadMs
  const runtime = testRuntime("telemetry")
  const alerts = readAlertConfig({
    TELEMETRY_ALERT_DEBOUNCE_MS: "20",
    TELEMETRY_ALERT_INTERVAL_MS: "100",
    TELEMETRY_ALERT_POLL_MS: "50",
  })
  // Two replicas on one database: whatever holds here holds for any number.
  const services = times(2, () =>
    stack.use(createTelemetry({ database, alerts, retentionMs }, { runtime, now })),
  )
  for (const service of services) await service.start(AbortSignal.timeout(60_000))
  const targets = services.map(({ routes }) => ({ routes, runtime }))
  const [target = { routes: [], runtime }] = targets
  let turn = 0
  const senders = targets.map((each) => testClient(EventService, each, "orchestrator"))
  return {
    clock,
    events: senders[0] ?? raise("no replica"),
    alerts: testClient(AlertService, target),
    metrics: testClient(MetricsService, target),
    /** Sends events as the orchestrator does: in batches that the contract allows, to any replica. */
    async record(workspaceId: string, all: readonly Event[]): Promise<number> {
      let recorded = 0
      turn += 1
      const events = senders[turn % senders.length] ?? raise("no replica")
      for (let at = 0; at < all.length; at += 500) {
        const request = { workspaceId, events: all.slice(at, at + 500) }
        const subject = serviceSubject("orchestrator", workspaceId)
        recorded += (await events.recordEvents(request, actingAs(subject))).recordedCount
      }
      return recorded
    },
    /** Sends events of many workspaces, as the orchestrator does, to any replica. */
    async recordBatch(
      workspaces: readonly { readonly workspaceId: string; readonly events: Event[] }[],
    ): Promise<number> {
      turn += 1
      const events = senders[turn % senders.length] ?? raise("no replica")
      const subject = serviceSubject("orchestrator", "")
      const request = { workspaces: [...workspaces] }
      return (await events.batchRecordEvents(request, actingAs(subject))).recordedCount
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}

/** A member of a workspace of its own, unless one is given. */
export function someone(role: Role = Role.MEMBER, workspaceId: string = newId()): Subject {
  return memberSubject(workspaceId, newId(), role)
}

export function event(
  payload: Payload,
  options: { readonly runId?: string; readonly atMs?: number } = {},
): Event {
  return create(EventSchema, {
    eventId: newId(),
    occurTime: timestampFromMs(options.atMs ?? Date.now()),
    runId: options.runId ?? newId(),
    payload,
  })
}

export function run(
  state: string,
  options: {
    readonly reason?: string
    readonly elapsedMs?: number
    readonly runId?: string
    readonly atMs?: number
  } = {},
): Event {
  const { reason = "", elapsedMs = 0 } = options
  const value = { state, reason, elapsedMillis: BigInt(elapsedMs) }
  return event({ case: "runChanged", value }, options)
}

export function call(
  state: string,
  options: { readonly runId?: string; readonly atMs?: number } = {},
): Event {
  const value = { stepIndex: 0, tool: "projects/project.create", state }
  return event({ case: "toolCallChanged", value }, options)
}

export function verdict(
  found: string,
  options: { readonly unavailable?: boolean; readonly atMs?: number } = {},
): Event {
  const { unavailable = false } = options
  const value = { verdict: found, subject: "tool_arguments", unavailable }
  return event({ case: "moderated", value }, options)
}

export function approval(state: string, waitMs: number): Event {
  const value = { approvalId: newId(), state, waitMillis: BigInt(waitMs) }
  return event({ case: "approvalChanged", value })
}

function raise(message: string): never {
  throw new Error(message)
}

export function times<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index))
}
