import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  type Alert,
  AlertSchema,
  AlertSeverity,
  AlertState as MessageState,
} from "../../gen/runwarden/telemetry/v1/alert_pb.ts"
import {
  AcknowledgeAlertResponseSchema,
  AlertService,
} from "../../gen/runwarden/telemetry/v1/alert_service_pb.ts"
import type { Database, Tx } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { nextPage, type Page, readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { type AlertState, describe, transition } from "./alert.ts"
import * as store from "./alert-store.ts"

const pageSizes = { default: 50, max: 200 } as const
const uuidPattern = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/

export function alertHandlers({ database }: { readonly database: Database }) {
  return {
    async listAlerts(request, { signal }) {
      const { code } = request
      const state = fromState(request.state)
      const filters = { list: "alerts", state: state ?? "", code }
      const page = withIdCursor(readPage(request, filters, pageSizes))
      const rows = await database.tenant(
        request.workspaceId,
        (tx) => store.listAlerts(tx, { state, code }, page),
        { signal, name: "list alerts" },
      )
      const alerts = rows.slice(0, page.limit)
      const last = alerts.at(-1)
      const isLast = rows.length <= page.limit || last === undefined
      return {
        alerts: alerts.map(toAlert),
        nextPageToken: isLast ? "" : nextPage(filters, [last.alertId]),
      }
    },

    async acknowledgeAlert(request, context) {
      const { actorId } = callerOf(context)
      return answerOnce(
        database,
        AlertService.method.acknowledgeAlert,
        request,
        async (tx) => {
          const alert = await acknowledge(tx, request, actorId)
          return create(AcknowledgeAlertResponseSchema, { alert: toAlert(alert) })
        },
        { signal: context.signal },
      )
    },
  } satisfies ServiceImpl<typeof AlertService>
}

async function acknowledge(
  tx: Tx,
  { alertId, etag }: { readonly alertId: string; readonly etag: string },
  actorId: string,
): Promise<store.AlertRow> {
  const alert = await store.lockAlert(tx, alertId)
  if (alert === undefined) throw notFound("alert", alertId)
  if (etag !== "" && etag !== String(alert.revision)) {
    throw new RunwardenError("ETAG_MISMATCH", { resource: "alert", id: alertId })
  }
  if (alert.state === "acknowledged") return alert
  transition(alert.state, "acknowledge")
  return store.acknowledgeAlert(tx, alertId, actorId)
}

const severities = { p1: AlertSeverity.P1, p2: AlertSeverity.P2 } as const
const messageStates = {
  open: MessageState.OPEN,
  acknowledged: MessageState.ACKNOWLEDGED,
  resolved: MessageState.RESOLVED,
} as const satisfies Readonly<Record<AlertState, MessageState>>

function toAlert(row: store.AlertRow): Alert {
  const { acknowledgeTime, resolveTime } = row
  return create(AlertSchema, {
    alertId: row.alertId,
    code: row.code,
    severity: severities[row.severity],
    state: messageStates[row.state],
    message: describe(row),
    thresholdName: row.thresholdName,
    threshold: row.threshold,
    clearLevel: row.clearLevel,
    value: row.value,
    sample: row.sample,
    minimumSample: row.minimumSample,
    windowSeconds: row.windowSeconds,
    etag: String(row.revision),
    createTime: timestampFromDate(row.createTime),
    updateTime: timestampFromDate(row.updateTime),
    acknowledgedBy: row.acknowledgedBy ?? "",
    ...(acknowledgeTime === null ? {} : { acknowledgeTime: timestampFromDate(acknowledgeTime) }),
    ...(resolveTime === null ? {} : { resolveTime: timestampFromDate(resolveTime) }),
  })
}

function fromState(state: MessageState): AlertState | undefined {
  if (state === MessageState.UNSPECIFIED) return undefined
  const names = Object.keys(messageStates) as readonly AlertState[]
  const found = names.find((name) => messageStates[name] === state)
  if (found === undefined) throw new RunwardenError("INVALID_REQUEST", { field: "state" })
  return found
}

/** A token whose cursor is no id was not given by this list. */
function withIdCursor(page: Page): Page {
  if (page.after === undefined || uuidPattern.test(page.after[0] ?? "")) return page
  throw new RunwardenError("INVALID_PAGE_TOKEN", { field: "page_token" })
}
