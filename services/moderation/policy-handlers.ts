import type { JsonValue } from "@bufbuild/protobuf"
import { create } from "@bufbuild/protobuf"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  type ActivatePolicyVersionResponse,
  ActivatePolicyVersionResponseSchema,
  CreatePolicyVersionResponseSchema,
  PolicyService,
} from "../../gen/runwarden/moderation/v1/policy_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { notFound, RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { newId } from "../../mesh/ids.ts"
import { nextPage, readPage } from "../../mesh/paging.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { toDecision, toNewDecision } from "./decision-message.ts"
import type { ShippedPolicies } from "./default-policy.ts"
import { evaluate } from "./evaluation.ts"
import { toJudgeInput } from "./judge-input.ts"
import { type Classifiers, compilePolicy, InvalidPolicy } from "./policy.ts"
import { compileLimitMs, type PolicyBook, UnknownPolicyVersion } from "./policy-book.ts"
import { activePolicy, findPolicy, revisionOf, versionMessage } from "./policy-message.ts"
import { activate, findActive, insertVersion, listVersions } from "./policy-store.ts"
import { digestOfRules, storedRules, toRules } from "./rule-message.ts"
import { inSlices, OutOfTime } from "./slices.ts"

const sizes = { default: 50, max: 200 }

export function policyHandlers(deps: {
  readonly database: Database
  readonly book: PolicyBook
  readonly shipped: ShippedPolicies
  readonly classifiers: Classifiers
  readonly limitMs: number
}) {
  const { database, book, shipped, classifiers, limitMs } = deps
  return {
    async getActivePolicy({ workspaceId }, { signal }) {
      return database.tenant(
        workspaceId,
        async (tx) => {
          const active = await findActive(tx, workspaceId)
          const policyVersion = active?.policy_version ?? book.defaultVersion
          const policy = await findPolicy(tx, shipped, workspaceId, policyVersion)
          return { activePolicy: activePolicy(policy, active) }
        },
        { signal, name: "getActivePolicy" },
      )
    },

    async getPolicyVersion({ workspaceId, policyVersion }, { signal }) {
      return database.tenant(
        workspaceId,
        async (tx) => {
          const policy = await findPolicy(tx, shipped, workspaceId, policyVersion)
          const active = await findActive(tx, workspaceId)
          policy.active = (active?.policy_version ?? book.defaultVersion) === policyVersion
          return { policyVersion: policy }
        },
        { signal, name: "getPolicyVersion" },
      )
    },

    async listPolicyVersions(request, { signal }) {
      const { workspaceId, name } = request
      const filters: JsonValue = ["policy_versions", workspaceId, name]
      const { limit, after } = readPage(request, filters, sizes)
      const query = { name, before: after?.[0], limit: limit + 1 }
      const { rows, active } = await database.tenant(
        workspaceId,
        async (tx) => ({
          rows: await listVersions(tx, workspaceId, query),
          active: await findActive(tx, workspaceId),
        }),
        { signal, name: "listPolicyVersions" },
      )
      const page = rows.slice(0, limit)
      const last = page.at(-1)
      return {
        policyVersions: page.map((row) => versionMessage(workspaceId, row, active)),
        nextPageToken:
          rows.length > limit && last !== undefined ? nextPage(filters, [last.version_id]) : "",
      }
    },

    async createPolicyVersion(request, context) {
      const { workspaceId, name, description } = request
      const { signal } = context
      await invalidPolicyAsError(async () => {
        const compile = compilePolicy(`${name}@0`, toRules(request.rules), classifiers)
        await inSlices(compile, { signal, limitMs: compileLimitMs })
      })
      const digest = digestOfRules(request.rules)
      const rules = storedRules(request.rules)
      const creator = callerOf(context).actorId
      const work = async (tx: Parameters<typeof insertVersion>[0]) => {
        const version = { versionId: newId(), name, description, rules, digest, creator }
        const row = await insertVersion(tx, workspaceId, version)
        const policyVersion = versionMessage(workspaceId, row, undefined, request.rules)
        return create(CreatePolicyVersionResponseSchema, { policyVersion })
      }
      const { createPolicyVersion } = PolicyService.method
      return answerOnce(database, createPolicyVersion, request, work, { signal })
    },

    async activatePolicyVersion(request, context) {
      const { workspaceId, policyVersion, etag } = request
      const { signal } = context
      await invalidPolicyAsError(async () => book.load(workspaceId, policyVersion, signal))
      const activator = callerOf(context).actorId
      const revision = etag === "" ? undefined : revisionOf(etag)
      let made: ActivatePolicyVersionResponse | undefined
      const work = async (tx: Parameters<typeof activate>[0]) => {
        const policy = await findPolicy(tx, shipped, workspaceId, policyVersion)
        const change = { policyVersion, activator, revision }
        const active = await activate(tx, workspaceId, change)
        if (active === undefined) {
          throw new RunwardenError("ETAG_MISMATCH", { resource: "active policy", id: workspaceId })
        }
        made = create(ActivatePolicyVersionResponseSchema, {
          activePolicy: activePolicy(policy, active),
        })
        return made
      }
      const { activatePolicyVersion } = PolicyService.method
      const askedAt = performance.now()
      const response = await answerOnce(database, activatePolicyVersion, request, work, { signal })
      // An answer that was stored before says what was active then, which tells nothing of now.
      const isNew = response === made
      const activeRevision = revisionOf(response.activePolicy?.etag ?? "")
      const active = { policyVersion, revision: activeRevision }
      book.note(workspaceId, active, isNew ? askedAt : Number.NEGATIVE_INFINITY)
      return response
    },

    async testPolicyVersion(request, context) {
      const { workspaceId, policyVersion, tool } = request
      const { signal } = context
      const input = toJudgeInput(request, callerOf(context))
      const load = () => book.load(workspaceId, policyVersion, signal)
      if (!(await exists(load))) throw notFound("policy version", policyVersion)
      const evaluation = await evaluate(load, input, { signal, limitMs })
      const { subject } = input
      const about = {
        decisionId: "",
        subject,
        policyVersion,
        tool,
        runId: "",
        stepIndex: undefined,
      }
      const decision = toDecision(workspaceId, toNewDecision(about, evaluation), undefined)
      return { decision }
    },
  } satisfies ServiceImpl<typeof PolicyService>
}

async function exists(load: () => unknown): Promise<boolean> {
  try {
    await load()
    return true
  } catch (error) {
    if (error instanceof InvalidPolicy) return true
    if (error instanceof UnknownPolicyVersion) return false
    throw error
  }
}

async function invalidPolicyAsError(work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
  } catch (error) {
    if (error instanceof UnknownPolicyVersion) throw notFound("policy version", error.message)
    if (error instanceof OutOfTime) {
      const metadata = { field: "rules", cause: "compiling them takes too long" }
      throw new RunwardenError("INVALID_POLICY", metadata, { cause: error })
    }
    if (!(error instanceof InvalidPolicy)) throw error
    const { field, reason } = error
    const violations = [{ field, description: reason }]
    throw new RunwardenError(
      "INVALID_POLICY",
      { field, cause: reason },
      { cause: error, violations },
    )
  }
}
