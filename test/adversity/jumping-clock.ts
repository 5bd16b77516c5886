/** The wall clock of this process, as a machine has it whose clock jumps. Timers and the monotonic clock go on. */
const RealDate = Date
let offsetMs = 0

class JumpingDate extends RealDate {
  constructor(...given: readonly unknown[]) {
    if (given.length === 0) super(RealDate.now() + offsetMs)
    else super(...(given as [number]))
  }

  static override now(): number {
    return RealDate.now() + offsetMs
  }
}

/** Puts the jumping clock in place of this process's own. */
export function installJumpingClock(): void {
  globalThis.Date = JumpingDate as DateConstructor
}

export function jump(toOffsetMs: number): void {
  offsetMs = toOffsetMs
}
