/** What a server over HTTP cannot do: send without end, or lead a request and its secrets elsewhere. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { afterEach, describe, expect, it } from "vitest"
import { httpTransport } from "./http.ts"
import { type McpSession, openSession } from "./session.ts"

const maxMessageBytes = 65_536
const limits = { signal: AbortSignal.timeout(30_000), timeoutMs: 5_000 }
const servers: Server[] = []

afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections()
    server.close()
  }
})

describe("an MCP server over HTTP", () => {
  it("is read as JSON and as a stream of events", async () => {
    for (const answer of [json, events]) {
      await using session = await sessionWith(await listen(mcpServer(answer)))
      const [definition] = await session.list(limits)
      expect(definition?.name).toBe("act")
    }
  })

  it.each([
    ["JSON", json],
    ["an event", events],
  ])("is not read beyond the cap of a message as %s", async (_, answer) => {
    const large = {
      tools: [
        { name: "act", description: "x".repeat(maxMessageBytes), inputSchema: { type: "object" } },
      ],
    }
    const url = await listen(mcpServer(answer, large))
    await expect(sessionWith(url)).rejects.toThrow()
  })

  it("may send many events that are small each", async () => {
    const url = await listen(
      mcpServer((response, message) => {
        response.writeHead(200, { "content-type": "text/event-stream" })
        const note = {
          jsonrpc: "2.0",
          method: "notifications/message",
          params: { level: "info", data: "x".repeat(4_000) },
        }
        for (let n = 0; n < 64; n++) response.write(`data: ${JSON.stringify(note)}\r\n\r\n`)
        response.end(`data: ${JSON.stringify(message)}\n\n`)
      }),
    )
    await using session = await sessionWith(url)
    expect(await session.list(limits)).toHaveLength(1)
  })

  it("cannot lead a request elsewhere", async () => {
    const led: string[] = []
    const elsewhere = await listen((request, response) => {
      led.push(String(request.headers.authorization))
      response.end()
    })
    const url = await listen((_, response) =>
      response.writeHead(307, { location: elsewhere.href }).end(),
    )
    await expect(sessionWith(url)).rejects.toThrow()
    expect(led).toEqual([])
  })
})

type Answer = (response: ServerResponse, message: object) => void

const json: Answer = (response, message) => {
  response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(message))
}

const events: Answer = (response, message) => {
  response.writeHead(200, { "content-type": "text/event-stream" })
  response.end(`event: message\ndata: ${JSON.stringify(message)}\n\n`)
}

const oneTool = { tools: [{ name: "act", inputSchema: { type: "object" } }] }

function mcpServer(answer: Answer, tools: object = oneTool) {
  return async (request: IncomingMessage, response: ServerResponse) => {
    if (request.method !== "POST") return response.writeHead(405).end()
    const { id, method, params } = JSON.parse(String(await request.toArray()))
    if (id === undefined) return response.writeHead(202).end()
    if (method === "initialize") {
      const { protocolVersion } = params
      const serverInfo = { name: "plain", version: "1" }
      return json(response, {
        jsonrpc: "2.0",
        id,
        result: { protocolVersion, capabilities: { tools: {} }, serverInfo },
      })
    }
    if (method === "tools/list") return answer(response, { jsonrpc: "2.0", id, result: tools })
    return json(response, { jsonrpc: "2.0", id, error: { code: -32601, message: "unknown" } })
  }
}

async function sessionWith(url: URL): Promise<McpSession> {
  const headers = { authorization: "secret" }
  const transport = httpTransport({ url, headers, maxMessageBytes, configured: [url.origin] })
  const settings = new Map()
  return openSession(
    { transport, settings, maxListAgeMs: 60_000, onToolsChanged() {}, prior: undefined },
    limits,
  )
}

async function listen(
  handle: (request: IncomingMessage, response: ServerResponse) => unknown,
): Promise<URL> {
  const server = createServer((request, response) => void handle(request, response))
  servers.push(server)
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  return new URL(`http://127.0.0.1:${(server.address() as AddressInfo).port}/mcp`)
}
