import type { Command } from "commander"
import {
  AlertSeveritySchema,
  type AlertState,
  AlertStateSchema,
} from "../gen/runwarden/telemetry/v1/alert_pb.ts"
import {
  AcknowledgeAlertResponseSchema,
  AlertService,
  ListAlertsResponseSchema,
} from "../gen/runwarden/telemetry/v1/alert_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { enumOption, enumText, enumValue } from "./enum-text.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf } from "./time-text.ts"

type ListOptions = PageOptions & { readonly state?: string; readonly code?: string }

export function alertCommands(cli: Cli): Command {
  const list = command<ListOptions>(cli, "list", "list alerts, newest first", {
    examples: [
      "alerts",
      "alerts list --state open",
      "alerts list --code moderation_block_rate_high",
    ],
    configure: (made) =>
      addPageOptions(made)
        .addOption(enumOption("--state <state>", "only in this state", AlertStateSchema))
        .option("--code <code>", "only of this code"),
    action: listAlerts,
  })
  const acknowledge = command(cli, "acknowledge <alert-id>", "say that you look at it", {
    examples: ["alerts acknowledge <id>"],
    action: acknowledgeAlert,
  })
  const alerts = group("alerts", "what is wrong in the workspace", [acknowledge])
  return alerts.alias("alert").addCommand(list, { isDefault: true })
}

async function listAlerts(context: Context, options: ListOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const state = enumValue<AlertState>(AlertStateSchema, options.state ?? "")
  const filters = { workspaceId, state, code: options.code ?? "" }
  await printList(context, options, {
    async read(page) {
      const alerts = session.client(AlertService)
      const found = await alerts.listAlerts({ ...filters, ...page }, session.options)
      return { items: found.alerts, nextPageToken: found.nextPageToken }
    },
    schema: ListAlertsResponseSchema,
    toResponse: (alerts, nextPageToken) => ({ alerts, nextPageToken }),
    head: ["ALERT", "SEVERITY", "CODE", "STATE", "FIRED", "MESSAGE"],
    row: (alert) => [
      alert.alertId,
      enumText(AlertSeveritySchema, alert.severity).toUpperCase(),
      alert.code,
      enumText(AlertStateSchema, alert.state),
      ageOf(alert.createTime, context.io.now()),
      shortened(alert.message, 100),
    ],
    empty: "No alerts.",
  })
}

async function acknowledgeAlert(context: Context, _: object, [id = ""]: string[]): Promise<void> {
  const { out } = context
  const alertId = readId(id, "alert")
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(AlertService)
    .acknowledgeAlert({ workspaceId, requestId: newId(), alertId }, session.options)
  out.message(AcknowledgeAlertResponseSchema, response, () => {
    if (out.isQuiet) return out.line(alertId)
    out.marked("success", `alert ${alertId} is acknowledged: ${response.alert?.message ?? ""}`)
  })
}
