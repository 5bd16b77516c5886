/**
 * The conversations with one MCP server, one for each workspace: a server may keep state between
 * calls, which must not go from one workspace to another.
 *
 * Owns: sessions, from their opening to their end.
 *
 * Invariants:
 * 1. A workspace has one session at a time; whoever comes while it opens waits for the same one.
 * 2. There are never more than `maxSessions`: one that nobody uses makes room, and where all are in
 *    use nothing is opened.
 * 3. A server that cannot be reached is tried again with back-off, whoever asks; who comes in
 *    between is told at once.
 */
import type { Runtime } from "../../../mesh/service.ts"
import type { McpSession } from "./session.ts"

export interface SessionsOptions {
  readonly runtime: Pick<Runtime, "log">
  readonly server: string
  readonly maxSessions: number
  open(): Promise<McpSession>
}

export interface McpSessions extends AsyncDisposable {
  /**
   * Uses the session of a workspace, which is opened where there is none. Rejects before
   * `work` begins where nothing could be opened.
   */
  use<T>(workspaceId: string, work: (session: McpSession) => Promise<T>): Promise<T>
}

/** No session could be opened; `cause` says why. */
class NoSession extends Error {
  override readonly name = "NoSession"
}

interface Held {
  readonly opening: Promise<McpSession>
  session: McpSession | undefined
  users: number
  usedAt: number
}

const idleMs = 300_000
const firstBackOffMs = 250
const maxBackOffMs = 10_000

export function createMcpSessions(options: SessionsOptions): McpSessions {
  const { maxSessions, runtime, server } = options
  const held = new Map<string, Held>()
  const ending = new Set<Promise<void>>()
  let failures = 0
  let closedUntil = 0
  let isEnded = false
  const sweeper = setInterval(() => endIdle(idleMs), idleMs / 5).unref()

  function heldBy(workspaceId: string): Held {
    const known = held.get(workspaceId)
    if (known !== undefined && known.session?.isClosed !== true) return known
    if (known !== undefined) end(workspaceId, known)
    if (isEnded) throw new NoSession("the service stops")
    if (performance.now() < closedUntil) throw new NoSession("the last attempts failed") // (3)
    if (held.size >= maxSessions) endIdle(0, 1)
    if (held.size >= maxSessions) throw new NoSession("every session is in use") // (2)
    const fresh: Held = { opening: open(), session: undefined, users: 0, usedAt: 0 }
    held.set(workspaceId, fresh)
    fresh.opening.then(
      (session) => {
        fresh.session = session
        failures = 0
      },
      () => {
        if (held.get(workspaceId) === fresh) held.delete(workspaceId)
        closedUntil = performance.now() + Math.min(maxBackOffMs, firstBackOffMs * 2 ** failures++)
      },
    )
    return fresh
  }

  async function open(): Promise<McpSession> {
    try {
      return await options.open()
    } catch (error) {
      throw new NoSession("the server could not be reached", { cause: error })
    }
  }

  /** Ends sessions that nobody uses, those that were used longest ago first. */
  function endIdle(olderThanMs: number, atMost = Number.POSITIVE_INFINITY): void {
    const before = performance.now() - olderThanMs
    const idle = [...held]
      .filter(([, one]) => one.users === 0 && one.session !== undefined && one.usedAt <= before)
      .sort(([, one], [, other]) => one.usedAt - other.usedAt)
    for (const [workspaceId, one] of idle.slice(0, atMost)) end(workspaceId, one)
  }

  function end(workspaceId: string, one: Held): void {
    if (held.get(workspaceId) === one) held.delete(workspaceId)
    const ended: Promise<void> = one.opening
      .then((session) => session[Symbol.asyncDispose]())
      .catch((error: unknown) =>
        runtime.log.debug({ err: error, server }, "MCP session not closed"),
      )
      .finally(() => ending.delete(ended))
    ending.add(ended)
  }

  return {
    async use(workspaceId, work) {
      const one = heldBy(workspaceId)
      one.users++
      try {
        return await work(await one.opening)
      } finally {
        one.users--
        one.usedAt = performance.now()
      }
    },
    async [Symbol.asyncDispose]() {
      isEnded = true
      clearInterval(sweeper)
      for (const [workspaceId, one] of held) end(workspaceId, one)
      await Promise.all(ending)
    },
  }
}
