import type { HandlerContext } from "@connectrpc/connect"
import {
  Health,
  type HealthCheckResponse,
  HealthCheckResponse_ServingStatus as Status,
} from "../gen/grpc/health/v1/health_pb.ts"
import { RunwardenError } from "./errors.ts"
import { type Route, route } from "./service.ts"

/** The health of one server, as `grpc.health.v1` tells it to balancers and probes. */
export interface ServerHealth {
  /** The service to register. It needs no identity: it tells nothing but SERVING or NOT_SERVING. */
  readonly route: Route
  /** Changes the state of every service; those who watch hear of it. */
  setServing(isServing: boolean): void
}

/** The most watchers of one server: balancers and channels, not users. */
const maxWatchers = 1_000

/**
 * Creates the health of a server that serves these services and, under the empty name, as a whole.
 * It starts as NOT_SERVING. A name that is not served is NOT_FOUND to Check and SERVICE_UNKNOWN to
 * Watch, as the protocol has it. Health never asks other services: a service whose peer is down is
 * itself alive.
 */
export function createHealth(serviceNames: readonly string[]): ServerHealth {
  const names = new Set(["", ...serviceNames])
  const changes = new EventTarget()
  let status: Status = Status.NOT_SERVING
  let watcherCount = 0

  async function* watch(
    { service }: { readonly service: string },
    { signal }: HandlerContext,
  ): AsyncGenerator<Pick<HealthCheckResponse, "status">> {
    if (watcherCount >= maxWatchers) {
      throw new RunwardenError("LIMIT_EXCEEDED", { limit: "watchers", maximum: `${maxWatchers}` })
    }
    watcherCount += 1
    try {
      let sent: Status | undefined
      while (!signal.aborted) {
        const current = names.has(service) ? status : Status.SERVICE_UNKNOWN
        if (current === sent) {
          await changed(changes, signal)
        } else {
          sent = current
          yield { status: current }
        }
      }
    } finally {
      watcherCount -= 1
    }
  }

  return {
    route: route(Health, {
      check({ service }) {
        if (names.has(service)) return { status }
        throw new RunwardenError("NOT_FOUND", { resource: "service", id: service })
      },
      list() {
        return { statuses: Object.fromEntries([...names].map((name) => [name, { status }])) }
      },
      watch,
    }),
    setServing(isServing) {
      status = isServing ? Status.SERVING : Status.NOT_SERVING
      changes.dispatchEvent(new Event("change"))
    },
  }
}

function changed(changes: EventTarget, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>()
  const done = () => {
    changes.removeEventListener("change", done)
    signal.removeEventListener("abort", done)
    resolve()
  }
  if (signal.aborted) resolve()
  changes.addEventListener("change", done)
  signal.addEventListener("abort", done)
  return promise
}
