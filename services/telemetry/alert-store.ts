import type { Tx } from "../../mesh/database.ts"
import type { Page } from "../../mesh/paging.ts"
import type { AlertCode, AlertSeverity, AlertState, Reading } from "./alert.ts"

export interface AlertRow {
  readonly alertId: string
  readonly code: string
  readonly severity: AlertSeverity
  readonly state: AlertState
  readonly thresholdName: string
  readonly threshold: number
  readonly clearLevel: number
  readonly value: number
  readonly sample: number
  readonly minimumSample: number
  readonly windowSeconds: number
  readonly revision: number
  readonly createTime: Date
  readonly updateTime: Date
  readonly acknowledgeTime: Date | null
  readonly acknowledgedBy: string | null
  readonly resolveTime: Date | null
}

export type NewAlert = Pick<
  AlertRow,
  | "alertId"
  | "severity"
  | "thresholdName"
  | "threshold"
  | "clearLevel"
  | "minimumSample"
  | "windowSeconds"
> &
  Reading & { readonly code: AlertCode }

const columns = `alert_id as "alertId", code, severity, state, threshold_name as "thresholdName",
  threshold, clear_level as "clearLevel", value, sample, minimum_sample as "minimumSample",
  window_seconds as "windowSeconds", revision, create_time as "createTime",
  update_time as "updateTime", acknowledge_time as "acknowledgeTime",
  acknowledged_by as "acknowledgedBy", resolve_time as "resolveTime"`

/** Stores an alert that fires; another replica may have been faster, then nothing happens. */
export async function insertAlert(tx: Tx, alert: NewAlert): Promise<void> {
  await tx.query(
    `insert into alerts (workspace_id, alert_id, code, severity, state, threshold_name, threshold,
       clear_level, value, sample, minimum_sample, window_seconds, revision, create_time, update_time)
     values (runwarden.current_workspace(), $1::uuid, $2::text, $3::text, 'open', $4::text,
       $5::float8, $6::float8, $7::float8, $8::bigint, $9::bigint, $10::bigint, 1, now(), now())
     on conflict (workspace_id, code) where state <> 'resolved' do nothing`,
    [
      alert.alertId,
      alert.code,
      alert.severity,
      alert.thresholdName,
      alert.threshold,
      alert.clearLevel,
      alert.value,
      alert.sample,
      alert.minimumSample,
      alert.windowSeconds,
    ],
  )
}

/** The alerts that are not resolved, locked in the order of their codes. */
export function lockLiveAlerts(tx: Tx): Promise<readonly AlertRow[]> {
  return tx.query<AlertRow>(
    `select ${columns} from alerts
     where workspace_id = runwarden.current_workspace() and state <> 'resolved'
     order by code
     for update`,
  )
}

/** Stores what the figure of a live alert reads now. */
export async function updateReading(
  tx: Tx,
  alertId: string,
  reading: Reading & Pick<AlertRow, "threshold" | "clearLevel" | "minimumSample">,
): Promise<void> {
  await tx.query(
    `update alerts set value = $2::float8, sample = $3::bigint, threshold = $4::float8,
       clear_level = $5::float8, minimum_sample = $6::bigint, update_time = now()
     where workspace_id = runwarden.current_workspace() and alert_id = $1::uuid`,
    [
      alertId,
      reading.value,
      reading.sample,
      reading.threshold,
      reading.clearLevel,
      reading.minimumSample,
    ],
  )
}

export async function resolveAlert(tx: Tx, alertId: string): Promise<void> {
  await tx.query(
    `update alerts
     set state = 'resolved', resolve_time = now(), update_time = now(), revision = revision + 1
     where workspace_id = runwarden.current_workspace() and alert_id = $1::uuid`,
    [alertId],
  )
}

export function lockAlert(tx: Tx, alertId: string): Promise<AlertRow | undefined> {
  return tx.maybe<AlertRow>(
    `select ${columns} from alerts
     where workspace_id = runwarden.current_workspace() and alert_id = $1::uuid
     for update`,
    [alertId],
  )
}

export function acknowledgeAlert(tx: Tx, alertId: string, actorId: string): Promise<AlertRow> {
  return tx.one<AlertRow>(
    `update alerts
     set state = 'acknowledged', acknowledge_time = now(), acknowledged_by = $2::text,
       update_time = now(), revision = revision + 1
     where workspace_id = runwarden.current_workspace() and alert_id = $1::uuid
     returning ${columns}`,
    [alertId, actorId],
  )
}

export function listAlerts(
  tx: Tx,
  filter: { readonly state: AlertState | undefined; readonly code: string },
  page: Page,
): Promise<readonly AlertRow[]> {
  return tx.query<AlertRow>(
    `select ${columns} from alerts
     where workspace_id = runwarden.current_workspace()
       and ($1::text is null or state = $1::text)
       and ($2::text = '' or code = $2::text)
       and ($3::uuid is null or alert_id < $3::uuid)
     order by alert_id desc
     limit $4::int`,
    [filter.state ?? null, filter.code, page.after?.[0] ?? null, page.limit + 1],
  )
}
