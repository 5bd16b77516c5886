// What was recorded before runs had records: after the migration the figures are still those of a
// recount, and events that come again are known.
import { cpSync, mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { timestampFromMs, timestampMs } from "@bufbuild/protobuf/wkt"
import fc from "fast-check"
import { expect, test } from "vitest"
import type { Event } from "../../gen/runwarden/telemetry/v1/event_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { MetricsService } from "../../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { connect, openDatabase } from "../../mesh/database.ts"
import { actingAs, serviceSubject } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { emptyTestDatabase, testServerVariable } from "../../mesh/test-database.ts"
import { testClient, testRuntime } from "../../mesh/testing.ts"
import { readAlertConfig } from "./config.ts"
import { figures, histories, recountNow, windows } from "./metrics-recount.ts"
import { createTelemetry } from "./service.ts"
import { event, run, someone } from "./telemetry-harness.ts"

const migrations = join(import.meta.dirname, "migrations")

test("events of before count as they did", async () => {
  await using stack = new AsyncDisposableStack()
  const database = stack.use(await emptyTestDatabase("telemetry"))
  const before = mkdtempSync(join(tmpdir(), "runwarden-migrations-"))
  stack.defer(() => rmSync(before, { recursive: true }))
  for (const file of ["0001_create_events.sql", "0002_create_alerts.sql"]) {
    cpSync(join(migrations, file), join(before, file))
  }
  const runtime = testRuntime("telemetry")
  const old = stack.use(openDatabase(database, { runtime, migrations: before }))
  await old.migrate()

  const parameters = { seed: 2_211, numRuns: 12 }
  const samples = fc
    .sample(fc.tuple(histories({ isEarly: true }), windows()), parameters)
    .map(([all, window]) => ({
      member: someone(),
      events: [...all.flat(), ...odd()],
      window,
    }))
  for (const { member, events } of samples)
    await insert(database.appUrl, member.workspaceId, events)

  const alerts = readAlertConfig({})
  const service = stack.use(
    createTelemetry({ database, alerts, retentionMs: 3_650 * 86_400_000 }, { runtime }),
  )
  await service.start(AbortSignal.timeout(60_000))
  const target = { routes: service.routes, runtime }
  const metrics = testClient(MetricsService, target)
  for (const { member, events, window } of samples) {
    const { workspaceId } = member
    const { endMs, seconds: windowSeconds } = window
    const request = { workspaceId, endTime: timestampFromMs(endMs), windowSeconds }
    const found = async () => figures((await metrics.getMetrics(request, actingAs(member))).metrics)
    const expected = recountNow(events, endMs - windowSeconds * 1_000, endMs)
    expect(await found()).toEqual(expected)
    const sender = testClient(EventService, target, "orchestrator")
    const subject = serviceSubject("orchestrator", workspaceId)
    const again = await sender.recordEvents({ workspaceId, events }, actingAs(subject))
    expect(again.recordedCount).toBe(0)
    expect(await found()).toEqual(expected)
  }
}, 60_000)

/** Of kinds that histories do not have, and with texts that are not ASCII. */
function odd(): Event[] {
  const value = { resource: "document", resourceId: "an id of two", change: "created" }
  return [
    event({ case: "resourceChanged", value }, { runId: "" }),
    run("ünterwegs", { reason: "😀".repeat(60), runId: newId(), elapsedMs: 1_000_000 }),
  ]
}

/** As the service wrote them, by its own statement of then, shortened to one event at a time. */
async function insert(url: string, workspaceId: string, events: readonly Event[]): Promise<void> {
  const server = process.env[testServerVariable] ?? ""
  await using admin = await connect(server, { database: new URL(url).pathname.slice(1) })
  const endings =
    "'{succeeded,failed,cancelled,expired,denied,approved,rejected,superseded}'::text[]"
  for (const it of events) {
    const { payload } = it
    if (payload.case === undefined || it.occurTime === undefined) throw new Error("half an event")
    const value = payload.value as unknown as Record<string, string & bigint & boolean>
    const kinds = {
      runChanged: "run",
      toolCallChanged: "tool_call",
      moderated: "moderation",
      approvalChanged: "approval",
      resourceChanged: "resource",
      budgetWarned: "budget",
    }
    const kind = kinds[payload.case]
    const state = value.state ?? value.verdict ?? value.change
    const name =
      value.tool || value.subject || (value.resource ? `${value.resource} ${value.resourceId}` : "")
    const millis = String(value.elapsedMillis ?? value.executionMillis ?? value.waitMillis ?? 0)
    const time = new Date(timestampMs(it.occurTime)).toISOString()
    const common = [workspaceId, it.eventId, time, state, millis]
    await admin.query(
      `insert into events (workspace_id, event_id, occur_time, state, millis, kind, run_id, trace_id,
         step_index, approval_id, name, reason, is_unavailable)
       values ($1, $2, $3, $4, $5, $6, $7, '', $8, $9, $10, $11, $12)`,
      [
        ...common,
        kind,
        it.runId === "" ? null : it.runId,
        value.stepIndex ?? null,
        value.approvalId ?? null,
        name,
        value.reason ?? "",
        value.unavailable ?? false,
      ],
    )
    const table = { run: "run_states", tool_call: "tool_call_states", approval: "approval_states" }[
      kind as "run"
    ]
    if (table === undefined) continue
    const own = {
      run: { run_id: it.runId, reason: value.reason },
      tool_call: {
        run_id: it.runId,
        step_index: value.stepIndex,
        tool: name,
        reason: value.reason,
      },
      approval: { approval_id: value.approvalId },
    }[kind as "run"] as Readonly<Record<string, unknown>>
    const key = { run: "run_id", tool_call: "run_id, step_index", approval: "approval_id" }[
      kind as "run"
    ]
    const names = Object.keys(own)
    await admin.query(
      `insert into ${table} as held (workspace_id, event_id, occur_time, state, millis, is_terminal,
         ${names.join(", ")})
       values ($1, $2, $3, $4, $5, $4 = any (${endings}), ${names.map((_, n) => `$${n + 6}`)})
       on conflict (workspace_id, ${key}) do update set event_id = excluded.event_id,
         occur_time = excluded.occur_time, state = excluded.state, millis = excluded.millis,
         is_terminal = excluded.is_terminal${names.includes("reason") ? ", reason = excluded.reason" : ""}
       where (excluded.is_terminal, excluded.occur_time, excluded.event_id)
         > (held.is_terminal, held.occur_time, held.event_id)`,
      [...common, ...Object.values(own)],
    )
  }
}
