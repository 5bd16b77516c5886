/**
 * Owns: the deadlines of the calls under way in this process, and the one timer that looks after
 * them. Nearly every call ends long before its deadline, so a timer of its own would be made for
 * nothing.
 *
 * 1. A deadline is reported once, never early, and at most two ticks late.
 * 2. Time is the monotonic clock's: a jump of the wall clock ends no call.
 * 3. The timer runs only while there are deadlines, and once more.
 */

/** What is told when its time has come. */
export interface Expiring {
  expire(): void
}

const tickMs = 10
const bySlot = new Map<number, Set<Expiring>>()
let count = 0
let timer: NodeJS.Timeout | undefined
/** The last slot that was looked at. */
let past = 0

/** Has `expire` called after the delay, unless the slot that this gives is forgotten before. */
export function watchDeadline(delayMs: number, expiring: Expiring): number {
  const now = performance.now()
  if (timer === undefined) {
    past = Math.floor(now / tickMs)
    timer = setInterval(tick, tickMs)
  }
  const slot = Math.max(Math.ceil((now + delayMs) / tickMs), past + 1)
  const due = bySlot.get(slot)
  if (due === undefined) bySlot.set(slot, new Set([expiring]))
  else due.add(expiring)
  count++
  return slot
}

/** Takes a deadline back; one that was reported already is gone. */
export function forgetDeadline(slot: number, expiring: Expiring): void {
  if (bySlot.get(slot)?.delete(expiring) === true) count--
}

function tick(): void {
  if (count === 0) {
    clearInterval(timer)
    timer = undefined
    bySlot.clear()
    return
  }
  const present = Math.floor(performance.now() / tickMs)
  while (past < present) {
    past++
    const due = bySlot.get(past)
    if (due === undefined) continue
    bySlot.delete(past)
    count -= due.size
    for (const expiring of due) expiring.expire()
  }
}
