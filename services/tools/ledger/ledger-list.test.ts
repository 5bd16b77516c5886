/** The list of all that was sent: whole, in pages, of one workspace. */
import { afterAll, beforeAll, expect, it } from "vitest"
import { ExecutionState } from "../../../gen/runwarden/tools/v1/execution_pb.ts"
import { reasonOf } from "../../../mesh/errors.ts"
import { actingAs } from "../../../mesh/identity.ts"
import { callOf, execute, type Started, startTools } from "../tools-harness.ts"

let tools: Started

beforeAll(async () => {
  tools = await startTools()
})
afterAll(() => tools[Symbol.asyncDispose]())

it("lists what was sent in pages, and not what was sealed unsent", async () => {
  const first = await callOf(tools, "create")
  const { subject } = first
  const { workspaceId } = first.request
  const calls = [first]
  for (const tool of ["create", "look", "create", "create"]) {
    calls.push(await callOf(tools, tool, undefined, subject))
  }
  for (const call of calls) await execute(tools, call)
  const { arguments: _, ...sealing } = (await callOf(tools, "fire", undefined, subject)).request
  await tools.execution.sealExecution(sealing, actingAs(subject))
  const keys: string[] = []
  let pageToken = ""
  do {
    const page = await tools.ledger.listExecutions(
      { workspaceId, pageSize: 2, pageToken },
      actingAs(subject),
    )
    for (const call of page.calls) {
      expect(call).toMatchObject({ state: ExecutionState.SUCCEEDED, attempts: 1 })
      keys.push(call.idempotencyKey)
    }
    pageToken = page.nextPageToken
  } while (pageToken !== "")
  expect(keys.sort()).toEqual(calls.map(({ request }) => request.idempotencyKey).sort())
})

it("takes no token of another workspace's list, and lists nothing of it", async () => {
  const call = await callOf(tools, "create")
  await execute(tools, call)
  const other = await callOf(tools, "create")
  const { calls } = await tools.ledger.listExecutions(
    { workspaceId: other.request.workspaceId },
    actingAs(other.subject),
  )
  expect(calls).toEqual([])
  const error = await tools.ledger
    .listExecutions(
      { workspaceId: other.request.workspaceId, pageToken: "x" },
      actingAs(other.subject),
    )
    .catch((thrown: unknown) => thrown)
  expect(reasonOf(error)).toBe("INVALID_PAGE_TOKEN")
})
