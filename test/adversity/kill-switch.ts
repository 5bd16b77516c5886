/** Ends this process with SIGKILL at a kill point, as the test that supervises it says. */
import { type KillPoint, killPoints } from "../../mesh/kill-points.ts"
import type { Runtime } from "../../mesh/service.ts"

/** Die at the n-th passing of the point from now on. */
export interface KillOrder {
  readonly point: KillPoint
  readonly passing: number
}

/** What a supervisor sends to its process. */
export type Order =
  | { readonly kind: "arm"; readonly order: KillOrder }
  | { readonly kind: "disarm" }
  | { readonly kind: "clock"; readonly offsetMs: number }

/** The process's side: `reached` for its runtime, `obey` for what its supervisor sends. */
export function createKillSwitch(): {
  readonly reached: Runtime["reached"]
  obey(order: Order): void
} {
  let armed: KillOrder | undefined
  return {
    reached(point) {
      if (armed?.point !== point) return
      if (armed.passing > 1) armed = { point, passing: armed.passing - 1 }
      else process.kill(process.pid, "SIGKILL")
    },
    obey(order) {
      if (order.kind === "arm" && killPoints.includes(order.order.point)) armed = order.order
      if (order.kind === "disarm") armed = undefined
    },
  }
}
