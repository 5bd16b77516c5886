import type { Timestamp } from "@bufbuild/protobuf/wkt"
import { timestampDate } from "@bufbuild/protobuf/wkt"
import { CliError } from "./failure.ts"

const units = [
  { name: "d", ms: 86_400_000 },
  { name: "h", ms: 3_600_000 },
  { name: "min", ms: 60_000 },
  { name: "s", ms: 1_000 },
] as const

/** Local time with its distance from now: `2026-03-01 14:03:27 (5 min ago)`; empty where absent. */
export function timeText(time: Timestamp | undefined, now: Date): string {
  if (time === undefined) return ""
  const date = timestampDate(time)
  return `${localTime(date)} (${ageText(date, now)})`
}

/** The distance alone: `5 min ago`, `in 3 h`, `now`. */
export function ageText(date: Date, now: Date): string {
  const distance = date.getTime() - now.getTime()
  const length = spanText(Math.abs(distance))
  if (Math.abs(distance) < 1_000) return "now"
  return distance < 0 ? `${length} ago` : `in ${length}`
}

export function ageOf(time: Timestamp | undefined, now: Date): string {
  return time === undefined ? "" : ageText(timestampDate(time), now)
}

/** A length of time in its largest unit. */
export function spanText(ms: number): string {
  const unit = units.find((one) => ms >= one.ms)
  return unit === undefined ? `${Math.round(ms)} ms` : `${Math.floor(ms / unit.ms)} ${unit.name}`
}

/** `2026-03-01 14:03:27` in the zone of this machine. */
export function localTime(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0")
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`
}

const secondsPerUnit: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3_600, d: 86_400 }

/** Reads `90s`, `15m`, `24h` or `7d` as seconds. */
export function readSeconds(text: string, name: string): number {
  const match = /^(\d{1,9})\s*([smhd])$/.exec(text.trim())
  const seconds = Number(match?.[1]) * (secondsPerUnit[match?.[2] ?? ""] ?? Number.NaN)
  if (Number.isSafeInteger(seconds) && seconds > 0) return seconds
  throw new CliError(`${name} must be a length of time such as 90s, 15m, 24h or 7d, not "${text}".`)
}
