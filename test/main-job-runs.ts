// The runs of the main job: each asks one question, files the best passage and cites it. Every tenth
// then archives its project, which a person must confirm; every other tenth carries a secret.
import { setTimeout as pause } from "node:timers/promises"
import { Code, ConnectError } from "@connectrpc/connect"
import type { Verdict } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { ApprovalState } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import { Answer, ApprovalService } from "../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import type { RunEvent } from "../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import type { Run } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { RunService } from "../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { type ToolCall, ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { ToolCallService } from "../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import type { Question } from "./main-job-pages.ts"
import type { Site } from "./main-job-site.ts"

/** What is to become of a run. */
export type Course = "plain" | "confirmed" | "blocked"

/** A run that has ended, with its calls in full and the verdicts that its history tells. */
export interface AskedRun {
  readonly question: Question
  readonly course: Course
  readonly projectId: string
  readonly run: Run
  readonly calls: readonly ToolCall[]
  readonly verdicts: readonly Verdict[]
}

/** Most runs of one workspace that are under way at once. */
const atOnce = 4

export function courseOf(index: number): Course {
  if (index % 10 === 3) return "confirmed"
  return index % 10 === 7 ? "blocked" : "plain"
}

/** Asks all questions in one workspace, several at once, and follows each run to its end. */
export async function askAll(
  site: Site,
  questions: readonly Question[],
): Promise<readonly AskedRun[]> {
  const shared = await createProject(site, "Answers")
  const asked: AskedRun[] = []
  const waiting = questions.entries()
  async function work(): Promise<void> {
    for (const [index, question] of waiting) {
      const course = courseOf(index)
      const projectId =
        course === "confirmed"
          ? await createProject(site, `Answer to ${question.questionId}`)
          : shared
      asked.push(await ask(site, { question, course, projectId }))
    }
  }
  await Promise.all(Array.from({ length: atOnce }, work))
  return asked
}

/** The result of a call that succeeded. */
export function resultOf(call: ToolCall | undefined): Record<string, unknown> {
  if (call?.outcome.case !== "result") throw new Error("the call has no result")
  return call.outcome.value
}

/** The calls that were sent to a tool. */
export function executedCalls({ calls }: AskedRun): readonly ToolCall[] {
  return calls.filter(({ state }) => state === ToolCallState.SUCCEEDED)
}

async function createProject({ client, workspace }: Site, name: string): Promise<string> {
  const request = { workspaceId: workspace.workspaceId, requestId: newId(), name }
  const { project } = await client(ProjectService, "member").createProject(request)
  return project?.projectId ?? ""
}

async function ask(
  site: Site,
  asking: Pick<AskedRun, "question" | "course" | "projectId">,
): Promise<AskedRun> {
  const { workspaceId } = site.workspace
  const { run: started } = await site.client(RunService, "member").startRun({
    workspaceId,
    requestId: newId(),
    plan: { name: "answer", steps: stepsOf(asking) },
  })
  const runId = started?.runId ?? ""
  const verdicts: Verdict[] = []
  for await (const { kind } of historyOf(site, runId)) {
    if (kind.case === "contentModerated") verdicts.push(kind.value.verdict)
    if (kind.case === "approvalStateChanged" && kind.value.state === ApprovalState.PENDING) {
      await approve(site, kind.value.approvalId)
    }
  }
  const { run } = await site.client(RunService, "viewer").getRun({ workspaceId, runId })
  if (run === undefined) throw new Error("a run that was watched is there")
  return { ...asking, run, calls: await callsOf(site, runId), verdicts }
}

function stepsOf({
  question,
  course,
  projectId,
}: Pick<AskedRun, "question" | "course" | "projectId">) {
  // In parts, so that no scanner takes it for a real one.
  const secret = `-----BEGIN ${"PRIVATE"} KEY-----\n${"MadeUpKey0".repeat(6)}\n-----END ${"PRIVATE"} KEY-----`
  const steps = [
    { tool: "document.search", arguments: { query: question.text, limit: 20 } },
    {
      tool: "document.create",
      arguments: {
        project_id: projectId,
        title: `Answer to ${question.questionId}`,
        content: { $from: 0, path: "/passages/0/citation/text" },
        metadata: {
          question: question.questionId,
          citation: { $from: 0, path: "/passages/0/citation" },
          ...(course === "blocked" ? { note: secret } : {}),
        },
      },
    },
  ]
  const archive = { tool: "project.archive", arguments: { project_id: projectId } }
  return course === "confirmed" ? [...steps, archive] : steps
}

/** Every entry once, until the run has ended; watching goes on where a busy machine broke it off. */
async function* historyOf({ client, workspace }: Site, runId: string): AsyncIterable<RunEvent> {
  const { workspaceId } = workspace
  let afterSequence = 0n
  for (;;) {
    try {
      const watched = { workspaceId, runId, afterSequence }
      for await (const { event } of client(RunService, "viewer").watchRun(watched)) {
        if (event === undefined) continue
        afterSequence = event.sequence
        yield event
      }
      return
    } catch (error) {
      if (ConnectError.from(error).code !== Code.Unavailable) throw error
      await pause(200)
    }
  }
}

async function approve({ client, workspace }: Site, approvalId: string): Promise<void> {
  const { workspaceId } = workspace
  const approvals = client(ApprovalService, "approver")
  const { approval } = await approvals.getApproval({ workspaceId, approvalId })
  await approvals.decide({
    workspaceId,
    requestId: newId(),
    approvalId,
    digest: approval?.digest ?? "",
    answer: Answer.APPROVE,
  })
}

async function callsOf({ client, workspace }: Site, runId: string): Promise<readonly ToolCall[]> {
  const { workspaceId } = workspace
  const service = client(ToolCallService, "viewer")
  const { toolCalls } = await service.listToolCalls({ workspaceId, runId })
  const found = await Promise.all(
    toolCalls.map(({ toolCallId }) => service.getToolCall({ workspaceId, toolCallId })),
  )
  return found.flatMap(({ toolCall }) => toolCall ?? [])
}
