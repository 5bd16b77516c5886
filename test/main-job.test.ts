// The main job on real input, over the gRPC wire: a manual of 1,144 pages ingested by the command
// line, and 50 of its questions asked by plan runs that search, file what they found and cite it, in
// four workspaces at once. Every tenth run is confirmed by a person, every other tenth is blocked.
import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import path from "node:path"
import { InMemorySpanExporter } from "@opentelemetry/sdk-trace"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { Verdict } from "../gen/runwarden/moderation/v1/decision_pb.ts"
import { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import { ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import { DocumentService } from "../gen/runwarden/projects/v1/document_service_pb.ts"
import { ProjectState } from "../gen/runwarden/projects/v1/project_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { CitationVerdict, SearchService } from "../gen/runwarden/retrieval/v1/search_service_pb.ts"
import { MetricsService } from "../gen/runwarden/telemetry/v1/metrics_service_pb.ts"
import { reasonOf } from "../mesh/errors.ts"
import { until } from "../mesh/testing.ts"
import { readManual, writePages } from "./main-job-pages.ts"
import { type AskedRun, askAll, executedCalls, resultOf } from "./main-job-runs.ts"
import {
  citationOf,
  createSite,
  filedDocuments,
  fileMarker,
  indexedDocuments,
  ingestFolder,
  type Site,
  storedRows,
} from "./main-job-site.ts"
import { TraceBook } from "./main-job-traces.ts"
import { startTestMesh, type TestMesh } from "./mesh.ts"

const markers = ["Quenthorpe", "Brastivek", "Wolmurdin", "Zathrelos"]
const questionCount = 50
const manual = readManual(process.env.RUNWARDEN_EVAL_DATA, questionCount)
if (manual === undefined) {
  console.log("skipped: the main job on real input (set RUNWARDEN_EVAL_DATA)")
}

describe.runIf(manual !== undefined)("the main job on real input", () => {
  const { pages, questions } = manual ?? { pages: [], questions: [] }
  const pageByHash = new Map(pages.map(({ sha256, pageId }) => [sha256, pageId]))
  const exporter = new InMemorySpanExporter()
  const stop = new AbortController()
  const figures = { ingestSeconds: 0, runSeconds: 0, hits: 0 }
  let folder: string
  let mesh: TestMesh
  let sites: readonly Site[] = []

  beforeAll(async () => {
    folder = mkdtempSync(path.join(tmpdir(), "runwarden-main-job-"))
    writePages(pages, folder)
    // A machine that is busy with other tests is no outage of moderation.
    const env = {
      ORCHESTRATOR_MODERATE_TIMEOUT_MS: "30000",
      ORCHESTRATOR_DATABASE_POOL_SIZE: "20",
      MODERATION_DATABASE_POOL_SIZE: "20",
    }
    mesh = await startTestMesh({ wire: "grpc", exporter, env })
    sites = await Promise.all(markers.map((marker) => createSite(mesh, marker)))
  }, 60_000)

  afterAll(async () => {
    stop.abort()
    rmSync(folder, { recursive: true, force: true })
    await mesh?.[Symbol.asyncDispose]()
    const { ingestSeconds, runSeconds, hits } = figures
    const pageCount = pages.length * sites.length
    const runCount = allRuns().length
    console.log(
      `main job: ${pageCount} pages in ${ingestSeconds.toFixed(1)} s ` +
        `(${(pageCount / ingestSeconds).toFixed(0)}/s), ${runCount} runs in ` +
        `${runSeconds.toFixed(1)} s (${(runCount / runSeconds).toFixed(1)}/s), ` +
        `hit@10 ${(hits / runCount).toFixed(3)}`,
    )
  }, 60_000)

  test("the command line ingests every page in four workspaces at once", async () => {
    const startedAt = performance.now()
    const summaries = await Promise.all(
      sites.map((site) => ingestFolder(site, folder, stop.signal)),
    )
    figures.ingestSeconds = (performance.now() - startedAt) / 1_000
    // What follows looks at the spans of the runs.
    exporter.reset()
    for (const summary of summaries) {
      expect(summary).toEqual({ new: pages.length, updated: 0, unchanged: 0, failed: [] })
    }
    for (const site of sites) {
      const indexed = await indexedDocuments(site)
      expect(indexed.map(({ contentSha256 }) => pageByHash.get(contentSha256)).sort()).toEqual(
        pages.map(({ pageId }) => pageId).sort(),
      )
    }
    expect(pages).toHaveLength(1_144)
  }, 480_000)

  test("every run ends as it must", async () => {
    const startedAt = performance.now()
    await Promise.all(
      sites.map(async (site) => site.asked.push(...(await askAll(site, questions)))),
    )
    figures.runSeconds = (performance.now() - startedAt) / 1_000
    expect(allRuns()).toHaveLength(questionCount * sites.length)
    for (const asked of allRuns()) expect(endingOf(asked)).toEqual(endings[asked.course])
  }, 240_000)

  test("every run that was not blocked filed one document, whose citation is verified", async () => {
    for (const site of sites) {
      const { workspaceId } = site.workspace
      const filed = await filedDocuments(site)
      const expected = site.asked.filter(({ course }) => course !== "blocked")
      expect(filed.map(({ title }) => title).sort()).toEqual(
        expected.map(({ question }) => `Answer to ${question.questionId}`).sort(),
      )
      const search = site.client(SearchService, "viewer")
      for (const { calls, projectId } of expected) {
        const { document_id: documentId } = resultOf(calls[1])
        const document = filed.find((one) => one.documentId === documentId)
        const citation = citationOf(document)
        expect(document).toMatchObject({ projectId, contentSha256: citation.textSha256 })
        const { verdict } = await search.verifyCitation({ workspaceId, citation })
        expect(verdict).toBe(CitationVerdict.VERIFIED)
      }
      const changed = { ...citationOf(filed[0]), text: "Something else." }
      const { verdict } = await search.verifyCitation({ workspaceId, citation: changed })
      expect(verdict).toBe(CitationVerdict.TEXT_MISMATCH)
    }
  }, 60_000)

  test("what was confirmed happened, and nothing else did", async () => {
    for (const { client, workspace, asked } of sites) {
      const { workspaceId } = workspace
      const { projects } = await client(ProjectService, "viewer").listProjects({
        workspaceId,
        state: ProjectState.ARCHIVED,
      })
      const confirmed = asked.filter(({ course }) => course === "confirmed")
      expect(projects.map(({ projectId }) => projectId).sort()).toEqual(
        confirmed.map(({ projectId }) => projectId).sort(),
      )
    }
  })

  test("a page that the manual's own index names is among the first ten", async () => {
    for (const site of sites) {
      const pageOf = new Map(
        (await indexedDocuments(site)).map(({ documentId, contentSha256 }) => [
          documentId,
          pageByHash.get(contentSha256),
        ]),
      )
      for (const { question, calls } of site.asked) {
        const passages = resultOf(calls[0]).passages as { citation: { document_id: string } }[]
        // What other runs have filed is found too; the judgements are about pages.
        const found = passages.flatMap(({ citation }) => pageOf.get(citation.document_id) ?? [])
        const firstTen = [...new Set(found)].slice(0, 10)
        if (firstTen.some((pageId) => question.pageIds.has(pageId))) figures.hits += 1
      }
    }
    expect(figures.hits / allRuns().length).toBeGreaterThanOrEqual(0.85)
  }, 60_000)

  test("nothing of one workspace is visible in another", async () => {
    const marked = await Promise.all(sites.map(fileMarker))
    const held = await Promise.all(sites.map(indexedOnceSettled))
    expect(new Set(held.flat()).size).toBe(held.flat().length)
    for (const [index, { client, workspace }] of sites.entries()) {
      const { workspaceId } = workspace
      const search = client(SearchService, "viewer")
      const documents = client(DocumentService, "viewer")
      for (const [other, site] of sites.entries()) {
        const query = { workspaceId, query: site.marker, limit: 50 }
        const { passages } = await search.search(query)
        const citations = passages.flatMap(({ citation }) => citation ?? [])
        const ids = citations.map(({ documentId }) => documentId)
        expect(ids.filter((id) => held[index]?.includes(id) !== true)).toEqual([])
        const withMarker = citations.filter(({ text }) => text.includes(site.marker))
        expect(withMarker.map((citation) => citation.documentId)).toEqual(
          other === index ? [marked[index]] : [],
        )
        if (other === index) continue
        const documentId = marked[other] ?? ""
        const read = await documents.getDocument({ workspaceId, documentId }).catch(reasonOf)
        expect(read).toBe("NOT_FOUND")
        const citation = citationOf((await filedDocuments(site))[0])
        const verified = await search.verifyCitation({ workspaceId, citation }).catch(reasonOf)
        expect(verified).toBe("NOT_FOUND")
      }
    }
  }, 120_000)

  test("the metrics of each workspace are exactly what happened in it", async () => {
    for (const { client, workspace, asked } of sites) {
      const { workspaceId } = workspace
      const [plain, confirmed, blocked] = [40, 5, 5]
      // Each call's arguments and result are judged, approved arguments again, a blocked call's
      // result never.
      const judged = 4 * plain + 7 * confirmed + 3 * blocked
      const verdicts = asked.flatMap((run) => run.verdicts)
      await expect
        .poll(
          async () => {
            const answer = await client(MetricsService, "viewer").getMetrics({ workspaceId })
            return answer.metrics
          },
          { interval: 250, timeout: 30_000 },
        )
        .toMatchObject({
          runsByState: { succeeded: plain + confirmed, failed: blocked },
          failedRunsByReason: { policy_denied: blocked },
          runSuccessRate: (plain + confirmed) / questionCount,
          runFailureRate: 0,
          toolCallsByState: { succeeded: 2 * plain + 3 * confirmed + blocked, denied: blocked },
          toolFailureRate: 0,
          moderationCount: judged,
          moderationBlockedCount: blocked,
          moderationFlaggedCount: verdicts.filter((one) => one === Verdict.FLAGGED).length,
          moderationUnavailableCount: 0,
          moderationBlockRate: blocked / judged,
          policyDenialCount: blocked,
          approvalsByState: { approved: confirmed },
          outcomeUnknownOpen: 0,
        })
      expect(verdicts).toHaveLength(judged)
    }
  }, 150_000)

  test("the trace of each run leads through every executed call to its provider", async () => {
    expect(new Set(allRuns().map(({ run }) => run.traceId)).size).toBe(allRuns().length)
    // Each service sends its spans on its own, every few seconds.
    await expect
      .poll(
        () => {
          const book = new TraceBook(exporter.getFinishedSpans())
          return allRuns().flatMap((asked) => book.faultsOf(asked))
        },
        { interval: 500, timeout: 30_000 },
      )
      .toEqual([])
  }, 60_000)

  test("the ledger and the provider have each effect once", async () => {
    for (const site of sites) {
      const calls = site.asked.flatMap(executedCalls)
      const sent = await storedRows<{ readonly call: string; readonly state: string }>(
        site,
        "tools",
        "select tool || ' ' || run_id || ' ' || step_index as call, state from executions",
      )
      expect(sent.map(({ call }) => call).sort()).toEqual(
        calls.map(({ tool, runId, stepIndex }) => `${tool} ${runId} ${stepIndex}`).sort(),
      )
      expect(sent.filter(({ state }) => state !== "succeeded")).toEqual([])
      const done = await storedRows<{ readonly key: string }>(
        site,
        "projects",
        "select idempotency_key as key from keyed_calls",
      )
      const keyed = calls.filter(({ tool }) => tool.startsWith("projects/"))
      expect(done.map(({ key }) => key).sort()).toEqual(
        keyed.map(({ idempotencyKey }) => idempotencyKey).sort(),
      )
    }
  }, 60_000)

  function allRuns(): readonly AskedRun[] {
    return sites.flatMap(({ asked }) => asked)
  }

  /** The ids of all that is indexed, once everything that was filed is. */
  async function indexedOnceSettled(site: Site): Promise<readonly string[]> {
    const filed = site.asked.filter(({ course }) => course !== "blocked").length
    const documents = await until(
      async () => {
        const found = await indexedDocuments(site)
        return found.length > pages.length + filed && found
      },
      { timeoutMs: 60_000 },
    )
    expect(documents).toHaveLength(pages.length + filed + 1)
    return documents.map(({ documentId }) => documentId)
  }
})

const { SUCCEEDED, DENIED } = ToolCallState
const ended = { state: RunState.SUCCEEDED, reason: "", isBlocked: false, rule: undefined }

/** How a run of each course ends. */
const endings = {
  plain: { ...ended, calls: [SUCCEEDED, SUCCEEDED], provenance: [0] },
  confirmed: { ...ended, calls: [SUCCEEDED, SUCCEEDED, SUCCEEDED], provenance: [0] },
  blocked: {
    state: RunState.FAILED,
    reason: "policy_denied",
    isBlocked: true,
    rule: "secret-in-written-arguments",
    calls: [SUCCEEDED, DENIED],
    provenance: [0],
  },
}

function endingOf({ run, calls }: AskedRun) {
  return {
    state: run.state,
    reason: run.reason,
    isBlocked: run.moderationOutcome === Verdict.BLOCKED,
    rule: run.policyDenial?.matchedRules[0],
    calls: calls.map(({ state }) => state),
    provenance: calls[1]?.provenance,
  }
}
