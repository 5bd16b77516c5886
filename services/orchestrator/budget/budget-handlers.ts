import { create } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import type { ServiceImpl } from "@connectrpc/connect"
import {
  type WorkspaceBudget,
  WorkspaceBudgetSchema,
} from "../../../gen/runwarden/orchestrator/v1/budget_pb.ts"
import {
  BudgetService,
  SetBudgetResponseSchema,
} from "../../../gen/runwarden/orchestrator/v1/budget_service_pb.ts"
import type { Database, Tx } from "../../../mesh/database.ts"
import { RunwardenError } from "../../../mesh/errors.ts"
import { callerOf } from "../../../mesh/identity.ts"
import { answerOnce } from "../../../mesh/request-id.ts"
import { findBudget, setBudget, type WorkspaceBudgetRecord } from "./budget-store.ts"

/** BudgetService. */
export function budgetHandlers({ database }: { readonly database: Database }) {
  return {
    async getBudget({ workspaceId }, { signal }) {
      const read = { signal, name: "getBudget", isOneRead: true }
      const budget = await database.tenant(workspaceId, (tx) => findBudget(tx, workspaceId), read)
      return { budget: toBudget(workspaceId, budget) }
    },

    async setBudget(request, context) {
      const { workspaceId, maxDailyToolCalls: maxCalls, etag } = request
      const maxTokens = Number(request.maxDailyTokens)
      const maxCostMicros = Number(request.maxDailyCostMicros)
      const limits = { maxCalls, maxTokens, maxCostMicros }
      const updaterId = callerOf(context).actorId
      const revision = etag === "" ? undefined : Number(/^b(\d{1,15})$/.exec(etag)?.[1] ?? -1)
      const work = async (tx: Tx) => {
        if (!(await setBudget(tx, workspaceId, { ...limits, updaterId, revision }))) {
          throw new RunwardenError("ETAG_MISMATCH", { resource: "budget", id: workspaceId })
        }
        const budget = await findBudget(tx, workspaceId)
        return create(SetBudgetResponseSchema, { budget: toBudget(workspaceId, budget) })
      }
      const { signal } = context
      return answerOnce(database, BudgetService.method.setBudget, request, work, { signal })
    },
  } satisfies ServiceImpl<typeof BudgetService>
}

function toBudget(workspaceId: string, budget: WorkspaceBudgetRecord): WorkspaceBudget {
  const { warnTime, updateTime } = budget
  return create(WorkspaceBudgetSchema, {
    workspaceId,
    maxDailyToolCalls: budget.maxCalls,
    dailyToolCalls: budget.calls,
    maxDailyTokens: BigInt(budget.maxTokens),
    dailyTokens: BigInt(budget.tokens),
    maxDailyCostMicros: BigInt(budget.maxCostMicros),
    dailyCostMicros: BigInt(budget.costMicros),
    dailyReservedTokens: BigInt(budget.reservedTokens),
    dailyReservedCostMicros: BigInt(budget.reservedCostMicros),
    resetTime: timestampFromDate(budget.resetTime),
    updaterId: budget.updaterId,
    etag: `b${budget.revision}`,
    ...(warnTime === null ? {} : { warnTime: timestampFromDate(warnTime) }),
    ...(updateTime === null ? {} : { updateTime: timestampFromDate(updateTime) }),
  })
}
