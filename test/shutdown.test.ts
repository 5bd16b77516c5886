// A mesh that is stopped under load: what it accepted it answers, what it acknowledged it keeps.
import { afterAll, expect, test } from "vitest"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { newId } from "../mesh/ids.ts"
import { until } from "../mesh/testing.ts"
import { startTestMesh, type TestMesh } from "./mesh.ts"

let mesh: TestMesh | undefined
afterAll(() => mesh?.[Symbol.asyncDispose]())

test.each(["local", "grpc"] as const)(
  "a stop under load over %s loses no acknowledged run and doubles no effect",
  async (wire) => {
    mesh = await startTestMesh({ wire })
    const running = mesh
    const { workspaceId, member, viewer } = await running.addWorkspace()
    const runs = running.client(RunService, member)
    const acknowledged: string[] = []
    const refusals: (string | undefined)[] = []
    const stop = new AbortController()

    async function load(worker: number): Promise<void> {
      for (let index = 0; !stop.signal.aborted && index < 200; index++) {
        try {
          const { run } = await runs.startRun({
            workspaceId,
            requestId: newId(),
            plan: {
              name: "load",
              steps: [
                { tool: "project.create", arguments: { name: `p-${worker}-${index}` } },
                { tool: "project.list", arguments: { page_size: 1 } },
              ],
            },
          })
          acknowledged.push(run?.runId ?? "")
        } catch (error) {
          refusals.push(reasonOf(error) ?? String(error))
          return
        }
      }
    }

    const workers = Array.from({ length: 8 }, (_, worker) => load(worker))
    await until(() => acknowledged.length >= 40)
    await running.stop()
    stop.abort()
    await Promise.all(workers)
    expect(refusals.filter((reason) => reason === "INTERNAL")).toEqual([])

    await running.restart()
    const after = running.client(RunService, viewer)
    const calls = running.client(ToolCallService, viewer)
    for (const runId of acknowledged) {
      const ended = await until(
        async () => {
          const { run } = await after.getRun({ workspaceId, runId })
          return run?.state === RunState.RUNNING || run?.state === RunState.QUEUED ? undefined : run
        },
        { timeoutMs: 30_000 },
      )
      expect(ended).toMatchObject({ state: RunState.SUCCEEDED, reason: "" })
      const { toolCalls } = await calls.listToolCalls({ workspaceId, runId })
      expect(toolCalls.map((call) => call.state)).toEqual([
        ToolCallState.SUCCEEDED,
        ToolCallState.SUCCEEDED,
      ])
    }
    const names = await allProjectNames(running, workspaceId, viewer)
    expect(new Set(names).size).toBe(names.length)
    expect(names.length).toBeGreaterThanOrEqual(acknowledged.length)
    await running[Symbol.asyncDispose]()
    mesh = undefined
  },
  120_000,
)

async function allProjectNames(
  running: TestMesh,
  workspaceId: string,
  viewer: { readonly apiKey: string },
): Promise<string[]> {
  const projects = running.client(ProjectService, viewer)
  const names: string[] = []
  let pageToken = ""
  do {
    const page = await projects.listProjects({ workspaceId, pageSize: 200, pageToken })
    names.push(...page.projects.map((project) => project.name))
    pageToken = page.nextPageToken
  } while (pageToken !== "")
  return names
}
