// The orders service as an MCP server, started from the file that comes with it: a call that reads
// runs, one that is keyed is done once by its key, and one that nobody has judged waits for a person.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { DatabaseSync } from "node:sqlite"
import { afterAll, expect, test } from "vitest"
import { until } from "../mesh/testing.ts"
import { root, useCliFixture } from "./cli-process.ts"

const folder = mkdtempSync(path.join(tmpdir(), "runwarden-orders-mcp-"))
const database = path.join(folder, "orders.sqlite")
const servers = path.join(folder, "servers.json")
const given = JSON.parse(
  readFileSync(path.join(root, "examples/provider-mcp/servers.json"), "utf8"),
)
given.mcpServers.orders.env = { ORDERS_DATABASE: database }
writeFileSync(servers, JSON.stringify(given))
const { cli, json, write } = useCliFixture({
  TOOLS_MCP_SERVERS: servers,
  PATH: path.dirname(process.execPath),
})

afterAll(() => rmSync(folder, { recursive: true, force: true }))

test("its tools run, each as the file says of it", async () => {
  await until(
    async () => (await json(["tool", "list", "--provider", "orders"])).tools?.length === 3,
    { timeoutMs: 30_000 },
  )
  const noted = await start("order.note", { order_id: "A-1001", text: "Ring twice." })
  expect(noted.code).toBe(0)
  const rows = new DatabaseSync(database).prepare("select key from calls").all()
  const [call] = (await json(["tool-call", "list", "--run", noted.runId])).toolCalls
  expect(rows).toEqual([{ key: call.idempotencyKey }])

  const read = await start("order.get", { order_id: "A-1001" })
  expect(read.code).toBe(0)
  const [{ toolCallId }] = (await json(["tool-call", "list", "--run", read.runId])).toolCalls
  const { toolCall } = await json(["tool-call", "get", toolCallId])
  expect(toolCall.result).toMatchObject({ order_id: "A-1001", notes: ["Ring twice."] })
  expect((await start("order.get", { order_id: "B-1" })).code).toBe(2)

  const refund = await start("order.refund", { order_id: "A-1001", cents: 900 })
  expect(refund.code).toBe(3)
}, 90_000)

async function start(tool: string, args: object) {
  const plan = { name: "orders", steps: [{ tool: `orders/${tool}`, arguments: args }] }
  const file = write("plan.json", JSON.stringify(plan))
  const { code, stdout } = await cli(["run", "start", "--file", file, "--wait"])
  return { code, runId: /run (\S+)/.exec(stdout)?.[1] ?? "" }
}
