import { connect } from "node:net"
import type pg from "pg"

const cancelRequestCode = 80_877_102

/**
 * Asks Postgres to cancel what this connection runs, over a second socket and without waiting. The
 * connection must never be used again: the request may arrive when its query is over, and would then
 * hit the next one. Lost requests are harmless: the statement timeout ends the query.
 */
export function cancelQuery(client: pg.PoolClient): void {
  const { processID, secretKey } = client as unknown as { processID?: number; secretKey?: number }
  if (processID == null || secretKey == null) return
  const request = Buffer.alloc(16)
  request.writeInt32BE(16, 0)
  request.writeInt32BE(cancelRequestCode, 4)
  request.writeInt32BE(processID, 8)
  request.writeInt32BE(secretKey, 12)
  const { host, port } = client
  const socket = host.startsWith("/")
    ? connect(`${host}/.s.PGSQL.${port}`)
    : connect({ host, port, timeout: 1_000 })
  socket.on("error", () => {})
  socket.on("timeout", () => socket.destroy())
  socket.on("connect", () => socket.end(request))
  socket.resume()
}
