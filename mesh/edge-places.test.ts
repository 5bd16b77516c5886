// What a client may hold at the edge: no stream after its answer, no answer that it does not take.
import { connect as connectHttp2 } from "node:http2"
import { connect } from "node:net"
import { setTimeout as sleep } from "node:timers/promises"
import { expect, test } from "vitest"
import { frame, headersFrame } from "./raw-client.ts"
import { until } from "./testing.ts"
import {
  createProbe,
  probeKey,
  probeRun,
  probeWorkspace,
  startProbeEdge,
} from "./transport-probe.ts"

const service = "/runwarden.orchestrator.v1.RunService"
const limits = {
  drainMs: 200,
  headersTimeoutMs: 300,
  requestTimeoutMs: 300,
  stallTimeoutMs: 300,
  checkIntervalMs: 50,
}

test.each([
  ["refused", {}, 401],
  ["given up", { authorization: probeKey }, 504],
])("a stream whose body never ends is over once it is %s", async (_, headers, httpStatus) => {
  await using edge = await startProbeEdge(createProbe(), { limits })
  const session = connectHttp2(`http://127.0.0.1:${edge.port}`)
  try {
    const stream = session.request({
      ":method": "POST",
      ":path": `${service}/GetRun`,
      "content-type": "application/json",
      ...headers,
    })
    stream.write("{")
    stream.resume()
    let status = 0
    let isClosed = false
    stream.on("response", (found) => {
      status = Number(found[":status"])
    })
    stream.on("close", () => {
      isClosed = true
    })
    await until(() => isClosed)
    expect(status).toBe(httpStatus)
  } finally {
    session.destroy()
  }
})

/** A probe whose watch never ends, and whether its handler was told to. */
function endless() {
  const probe = createProbe()
  const seen = { count: 0, isAborted: false }
  probe.watchRun = async function* (_, { signal }) {
    try {
      const event = {
        kind: { case: "runStarted" as const, value: { planName: "x".repeat(100_000) } },
      }
      while (!signal.aborted) {
        seen.count += 1
        yield { event }
      }
    } finally {
      seen.isAborted = true
    }
  }
  return { probe, seen }
}

const json = JSON.stringify({ workspaceId: probeWorkspace, runId: probeRun })
const envelope = Buffer.alloc(5)
envelope.writeUInt32BE(json.length, 1)
const request = Buffer.concat([envelope, Buffer.from(json)])

test("a stream that nobody reads over HTTP/2 is ended", async () => {
  const { probe, seen } = endless()
  await using edge = await startProbeEdge(probe, { limits })
  const socket = connect(edge.port, "127.0.0.1")
  try {
    const noWindow = Buffer.from([0, 4, 0, 0, 0, 0])
    const preface = Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    const fields = [
      [":method", "POST"],
      [":scheme", "http"],
      [":path", `${service}/WatchRun`],
      [":authority", "a"],
      ["content-type", "application/connect+json"],
      ["authorization", probeKey],
    ] as const
    socket.write(Buffer.concat([preface, frame(4, 0, 0, noWindow), headersFrame(1, fields, false)]))
    socket.write(frame(0, 1, 1, request))
    socket.resume()
    await until(() => seen.count > 0)
    await until(() => seen.isAborted, { timeoutMs: 5_000 })
  } finally {
    socket.destroy()
  }
})

test("a stream that nobody reads over HTTP/1.1 is ended", async () => {
  const { probe, seen } = endless()
  await using edge = await startProbeEdge(probe, { limits })
  const socket = connect(edge.port, "127.0.0.1")
  try {
    const head = `POST ${service}/WatchRun HTTP/1.1\r\nHost: a\r\nauthorization: ${probeKey}\r\ncontent-type: application/connect+json\r\ncontent-length: ${request.byteLength}\r\n\r\n`
    socket.write(Buffer.concat([Buffer.from(head), request]))
    socket.pause()
    await until(() => seen.count > 0)
    await until(() => seen.isAborted, { timeoutMs: 5_000 })
  } finally {
    socket.destroy()
  }
})

test.each(["1.1", "2"])("a quiet stream stays, over HTTP/%s", async (version) => {
  const probe = createProbe()
  const quiet = Promise.withResolvers<void>()
  let isStarted = false
  probe.watchRun = async function* () {
    isStarted = true
    await quiet.promise
    yield { event: { sequence: 7n } }
  }
  await using edge = await startProbeEdge(probe, { limits })
  const answer = version === "2" ? watchOverHttp2(edge.port) : watchOverHttp1(edge.port)
  await until(() => isStarted)
  await sleep(800)
  quiet.resolve()
  expect(await answer).toContain('"sequence":"7"')
})

const streaming = { "content-type": "application/connect+json", authorization: probeKey }

async function watchOverHttp1(port: number): Promise<string> {
  const url = `http://127.0.0.1:${port}${service}/WatchRun`
  const response = await fetch(url, { method: "POST", headers: streaming, body: request })
  return await response.text()
}

async function watchOverHttp2(port: number): Promise<string> {
  const session = connectHttp2(`http://127.0.0.1:${port}`)
  const head = { ":method": "POST", ":path": `${service}/WatchRun`, ...streaming }
  const stream = session.request(head).setEncoding("utf8").end(request)
  let text = ""
  for await (const chunk of stream) text += chunk
  session.destroy()
  return text
}
