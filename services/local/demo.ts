/**
 * What a newcomer sees: the project's own documents ingested, then four real runs by a member of
 * the demo workspace, told step by step as their history grows.
 */
import { globSync, readFileSync, statSync } from "node:fs"
import path from "node:path"
import type { JsonObject } from "@bufbuild/protobuf"
import { type Client, ConnectError } from "@connectrpc/connect"
import { v5 } from "uuid"
import type { ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { RunEvent } from "../../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunState, RunStateSchema } from "../../gen/runwarden/orchestrator/v1/run_pb.ts"
import type { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ToolCallStateSchema } from "../../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import type { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import type { IngestionService } from "../../gen/runwarden/retrieval/v1/ingestion_service_pb.ts"
import { newId } from "../../mesh/ids.ts"

/** The member's clients, each call authenticated by the member's key, and where to tell. */
export interface DemoDeps {
  readonly workspaceId: string
  readonly runs: Client<typeof RunService>
  readonly toolCalls: Client<typeof ToolCallService>
  readonly approvals: Client<typeof ApprovalService>
  readonly ingestion: Client<typeof IngestionService>
  readonly print: (line: string) => void
  readonly signal: AbortSignal
}

interface DemoRun {
  readonly heading: string
  readonly name: string
  readonly steps: readonly {
    readonly tool: string
    readonly title: string
    readonly arguments: JsonObject
  }[]
}

/** Ingests every Markdown file below `folder`; unchanged ones are passed over. Returns how many. */
export async function ingestDocuments(deps: DemoDeps, folder: string): Promise<number> {
  const files = globSync("**/*.md", { cwd: folder }).sort()
  for (const file of files) {
    const full = path.join(folder, file)
    const content = readFileSync(full, "utf8")
    const sourceUri = `docs/${file.replaceAll(path.sep, "/")}`
    await deps.ingestion.ingestDocument(
      {
        workspaceId: deps.workspaceId,
        requestId: newId(),
        documentId: documentId(deps, sourceUri),
        version: BigInt(Math.floor(statSync(full).mtimeMs)),
        title: /^#\s+(.+)$/m.exec(content)?.[1] ?? file,
        mediaType: "text/markdown",
        content,
        sourceUri,
      },
      { signal: deps.signal },
    )
  }
  return files.length
}

function documentId(deps: DemoDeps, sourceUri: string): string {
  return v5(sourceUri, deps.workspaceId)
}

/** Performs the four runs. Returns the id of the approval that waits. */
export async function performRuns(deps: DemoDeps): Promise<string> {
  const setUp = await perform(deps, {
    heading: "A run that creates a project, starts it and files a document",
    name: "set-up-project",
    steps: [
      {
        tool: "project.create",
        title: "Create the project",
        arguments: { name: "Apollo", description: "Our first governed project." },
      },
      {
        tool: "project.transition",
        title: "Start it",
        arguments: { project_id: { $from: 0, path: "/project_id" }, state: "active" },
      },
      {
        tool: "document.create",
        title: "File its charter",
        arguments: {
          project_id: { $from: 0, path: "/project_id" },
          title: "Charter",
          content: "# Charter\n\nApollo shows that an action of an AI can be trusted.\n",
        },
      },
    ],
  })
  await perform(deps, {
    heading: "A run whose arguments moderation blocks",
    name: "file-a-secret",
    steps: [
      {
        tool: "document.create",
        title: "File a note with a private key in it",
        arguments: { title: "Note", content: blockedNote },
      },
    ],
  })
  const search = await perform(deps, {
    heading: "A run that searches the documents and cites what it found",
    name: "ask-the-documents",
    steps: [
      {
        tool: "document.search",
        title: "Search",
        arguments: { query: "why does an API key belong to one workspace", limit: 3 },
      },
    ],
  })
  await cite(deps, search)
  const projectId = (await resultOf(deps, setUp, 0)).project_id
  if (typeof projectId !== "string") throw new Error("the first run created no project")
  const risky = await perform(deps, {
    heading: "A run whose high-risk call waits for a person",
    name: "archive-project",
    steps: [
      {
        tool: "project.archive",
        title: "Archive the project for good",
        arguments: { project_id: projectId },
      },
    ],
  })
  const { approvals } = await deps.approvals.listApprovals(
    { workspaceId: deps.workspaceId, runId: risky },
    { signal: deps.signal },
  )
  const [approval] = approvals
  if (approval === undefined) throw new Error("no approval waits")
  return approval.approvalId
}

/** Made up, and split so that no scanner of this repository takes it for a real key. */
const blockedNote = `Keep this safe:\n-----BEGIN ${"PRIVATE"} KEY-----\nMC4CAQAwBQYDK2VwBCIEIA\n-----END ${"PRIVATE"} KEY-----`

/** Starts a run and tells its history until it ends or waits for a person. Returns its id. */
async function perform(deps: DemoDeps, demo: DemoRun): Promise<string> {
  deps.print(`\n${demo.heading}`)
  const { run } = await deps.runs.startRun(
    {
      workspaceId: deps.workspaceId,
      requestId: newId(),
      plan: { name: demo.name, steps: demo.steps.map((step) => ({ ...step })) },
    },
    { signal: deps.signal },
  )
  if (run === undefined) throw new Error("no run was started")
  deps.print(`  run ${run.runId}`)
  const enough = new AbortController()
  try {
    const history = deps.runs.watchRun(
      { workspaceId: deps.workspaceId, runId: run.runId },
      { signal: AbortSignal.any([enough.signal, deps.signal]) },
    )
    for await (const { event } of history) {
      if (event === undefined) continue
      const line = tell(event)
      if (line !== undefined) deps.print(`  ${line}`)
      if (event.kind.case === "runStateChanged" && isRest(event.kind.value.state)) break
    }
  } catch (error) {
    if (!(error instanceof ConnectError && enough.signal.aborted)) throw error
  } finally {
    enough.abort()
  }
  await tellDenial(deps, run.runId)
  return run.runId
}

async function tellDenial(deps: DemoDeps, runId: string): Promise<void> {
  const { workspaceId, signal } = deps
  const { run } = await deps.runs.getRun({ workspaceId, runId }, { signal })
  if (run?.policyDenial === undefined) return
  const { policyVersion, matchedRules } = run.policyDenial
  deps.print(`     policy ${policyVersion} says no: ${matchedRules.join(", ")}`)
}

function isRest(state: RunState): boolean {
  return state !== RunState.QUEUED && state !== RunState.RUNNING && state !== RunState.CANCELLING
}

function tell(event: RunEvent): string | undefined {
  switch (event.kind.case) {
    case "runStateChanged": {
      const { state, reason } = event.kind.value
      const name = RunStateSchema.value[state]?.localName.toLowerCase() ?? "unknown"
      return `${isRest(state) ? "=>" : "--"} run ${name}${reason === "" ? "" : ` (${reason})`}`
    }
    case "toolCallStateChanged": {
      const { stepIndex, tool, state, reason } = event.kind.value
      const name = ToolCallStateSchema.value[state]?.localName.toLowerCase() ?? "unknown"
      return `   step ${stepIndex} ${tool}: ${name}${reason === "" ? "" : ` (${reason})`}`
    }
    default:
      return undefined
  }
}

async function cite(deps: DemoDeps, runId: string): Promise<void> {
  const { passages } = await resultOf(deps, runId, 0)
  if (!Array.isArray(passages)) throw new Error("the search answered no passages")
  for (const passage of passages) {
    const citation = (passage as JsonObject).citation as JsonObject
    const text = String(citation.text).replaceAll(/\s+/g, " ").slice(0, 90)
    deps.print(
      `     "${text}…"\n       ${citation.title}, characters ${citation.start}–${citation.end}`,
    )
  }
}

async function resultOf(deps: DemoDeps, runId: string, stepIndex: number): Promise<JsonObject> {
  const { workspaceId, signal } = deps
  const { toolCalls } = await deps.toolCalls.listToolCalls({ workspaceId, runId }, { signal })
  const toolCallId = toolCalls.find((call) => call.stepIndex === stepIndex)?.toolCallId ?? ""
  const { toolCall } = await deps.toolCalls.getToolCall({ workspaceId, toolCallId }, { signal })
  if (toolCall?.outcome.case !== "result") throw new Error(`step ${stepIndex} has no result`)
  return toolCall.outcome.value
}
