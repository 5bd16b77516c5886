/**
 * Every limit that a server of the mesh sets against its callers, in one place. The figures follow
 * what was measured: a byte limit is the only thing that bounds the time a parser blocks the event
 * loop (about 0.5 s per megabyte of empty sub-messages), and the libraries' own defaults are 4 GiB
 * and four thousand million streams.
 */

/** The largest request of a method that no entry of `MethodLimits` names. */
export const readMaxBytes = 256 * 1024

/** The largest message that a server sends. Lists are paged well below it. */
export const writeMaxBytes = 4 * 1024 * 1024

/** Request limits of single methods, by `package.Service/Method`, in bytes. */
export type MethodLimits = Readonly<Record<string, number>>

/** The request limit of one method. */
export function readLimitOf(method: string, limits: MethodLimits = {}): number {
  return limits[method] ?? readMaxBytes
}

/** The largest limit of any method: what a connection must let through at all. */
export function largestLimit(limits: MethodLimits = {}): number {
  return Math.max(readMaxBytes, ...Object.values(limits))
}

/** What a call may ask for at most; the edge shortens longer deadlines instead of refusing them. */
export const edgeLimits = {
  /** Strangers open connections here: more streams go over more connections. */
  maxConcurrentStreams: 100,
  maxHeaderBytes: 16 * 1024,
  /** A socket that has not said which protocol it speaks. */
  prefaceTimeoutMs: 10_000,
  headersTimeoutMs: 10_000,
  /** Headers and body of one request; what comes slower is a slow-loris. */
  requestTimeoutMs: 30_000,
  keepAliveTimeoutMs: 65_000,
  /** A session without a stream. */
  idleTimeoutMs: 300_000,
  /** An answer of which its reader takes nothing. */
  stallTimeoutMs: 30_000,
  /** A connection that is silent is asked whether its peer is still there. */
  keepAliveProbeMs: 30_000,
  /** How often timeouts are looked for. */
  checkIntervalMs: 1_000,
  /** Compressing an answer costs more than sending it, below this. */
  compressMinBytes: 16 * 1024,
  maxSessionMemoryMb: 16,
  /** Frames that cost the sender nothing, per session. */
  maxConnections: 10_000,
  drainMs: 15_000,
} as const

/** The limits between services. */
export const meshLimits = {
  /**
   * A gRPC channel holds one connection per replica and makes no second one when its streams are
   * used up: calls beyond the limit wait in the client, behind streams that may last for hours. So
   * a limit of 100, right for strangers, would throttle a peer; this one is the most that a peer
   * is meant to have in flight, and a stream without a valid token ends on its headers.
   */
  maxConcurrentStreams: 2_000,
  keepaliveTimeMs: 20_000,
  keepaliveTimeoutMs: 10_000,
  /** Old connections end, so that clients look the name up again and find new replicas. */
  maxConnectionAgeMs: 15 * 60_000,
  maxConnectionAgeGraceMs: 60_000,
  maxSessionMemoryMb: 128,
  drainMs: 15_000,
} as const
