/**
 * A TCP proxy that a test puts between two services, and which does to the wire what networks do.
 *
 * States: pass → cut (connections reset, new ones refused) | black_hole (bytes vanish, nobody is
 * told) | requests_lost | answers_lost (one direction vanishes) | slow → pass. What vanished stays
 * vanished: on the way back to pass, connections that lost bytes are reset.
 */
import { once } from "node:events"
import { createConnection, createServer, type Socket } from "node:net"

export const wireFaults = ["cut", "black_hole", "requests_lost", "answers_lost", "slow"] as const

export type WireFault = (typeof wireFaults)[number]

export interface TcpProxy extends AsyncDisposable {
  readonly port: number
  set(state: WireFault | "pass"): void
}

interface Pair {
  readonly from: Socket
  readonly to: Socket
  hasLost: boolean
}

const slowMs = 150

export async function startTcpProxy(target: { readonly port: number }): Promise<TcpProxy> {
  const pairs = new Set<Pair>()
  let state: WireFault | "pass" = "pass"

  const server = createServer({ noDelay: true }, (from) => {
    if (state === "cut") {
      from.resetAndDestroy()
      return
    }
    const to = createConnection({ host: "127.0.0.1", port: target.port, noDelay: true })
    const pair: Pair = { from, to, hasLost: false }
    pairs.add(pair)
    carry(pair, from, to, "requests_lost")
    carry(pair, to, from, "answers_lost")
    for (const socket of [from, to]) {
      socket.on("error", () => {})
      socket.on("close", () => {
        pairs.delete(pair)
        from.destroy()
        to.destroy()
      })
    }
  })

  function carry(pair: Pair, source: Socket, sink: Socket, lossy: WireFault): void {
    let last: Promise<unknown> = Promise.resolve()
    source.on("data", (bytes) => {
      if (state === "black_hole" || state === lossy) {
        pair.hasLost = true
      } else if (state === "slow") {
        const due = new Promise((resolve) => setTimeout(resolve, slowMs))
        last = last.then(() => due).then(() => sink.write(bytes))
      } else {
        // What is still on a slow way must not be overtaken.
        last = last.then(() => sink.write(bytes))
      }
    })
  }

  server.listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  if (address === null || typeof address === "string") throw new Error("no port")
  return {
    port: address.port,
    set(next) {
      state = next
      for (const { from, to, hasLost } of pairs) {
        if (next !== "cut" && !(next === "pass" && hasLost)) continue
        from.resetAndDestroy()
        to.resetAndDestroy()
      }
    },
    async [Symbol.asyncDispose]() {
      for (const { from, to } of pairs) {
        from.destroy()
        to.destroy()
      }
      server.close()
    },
  }
}
