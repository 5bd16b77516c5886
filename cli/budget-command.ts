import type { Command } from "commander"
import type { WorkspaceBudget } from "../gen/runwarden/orchestrator/v1/budget_pb.ts"
import {
  BudgetService,
  GetBudgetResponseSchema,
  SetBudgetResponseSchema,
} from "../gen/runwarden/orchestrator/v1/budget_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { type Cli, type Context, command, group, wholeNumber } from "./command.ts"
import { timeText } from "./time-text.ts"

interface SetOptions {
  readonly dailyToolCalls?: number
  readonly dailyTokens?: number
  readonly dailyCostMicros?: number
  readonly etag?: string
}

const mostCalls = 2 ** 32 - 1
const mostTokens = 10 ** 12
const mostMicros = 10 ** 15

export function budgetCommands(cli: Cli): Command {
  return group("budget", "what the workspace's runs may use up in a day", [
    command(cli, "show", "show the budget, and what was used of it today", {
      examples: ["budget show", "budget show -o json"],
      action: showBudget,
    }),
    command<SetOptions>(cli, "set", "set the budget", {
      examples: ["budget set --daily-tool-calls 5000 --daily-tokens 2000000"],
      more: "\nNeeds an admin. What is not given stays as it is; 0 takes a limit away.",
      configure: (made) =>
        made
          .option(
            "--daily-tool-calls <n>",
            "calls that runs may make in a day (UTC); 0 for any number",
            wholeNumber(0, mostCalls),
          )
          .option("--daily-tokens <n>", "tokens that they may use up", wholeNumber(0, mostTokens))
          .option(
            "--daily-cost-micros <n>",
            "what they may spend, in millionths of the currency",
            wholeNumber(0, mostMicros),
          )
          .option("--etag <etag>", "only if the budget is as it was read"),
      action: setBudget,
    }),
  ])
}

async function showBudget(context: Context): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const budgets = session.client(BudgetService)
  const response = await budgets.getBudget({ workspaceId }, session.options)
  context.out.message(GetBudgetResponseSchema, response, () => tell(context, response.budget))
}

async function setBudget(context: Context, options: SetOptions): Promise<void> {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const budgets = session.client(BudgetService)
  const { budget } = await budgets.getBudget({ workspaceId }, session.options)
  const { dailyToolCalls, dailyTokens, dailyCostMicros, etag = budget?.etag ?? "" } = options
  const request = {
    ...{ workspaceId, requestId: newId(), etag },
    maxDailyToolCalls: dailyToolCalls ?? budget?.maxDailyToolCalls ?? 0,
    maxDailyTokens: BigInt(dailyTokens ?? budget?.maxDailyTokens ?? 0),
    maxDailyCostMicros: BigInt(dailyCostMicros ?? budget?.maxDailyCostMicros ?? 0),
  }
  const response = await budgets.setBudget(request, session.options)
  context.out.message(SetBudgetResponseSchema, response, () => tell(context, response.budget))
}

function tell({ out, io }: Context, budget: WorkspaceBudget | undefined): void {
  if (budget === undefined) return
  if (out.isQuiet) {
    out.line(budget.etag)
    return
  }
  const text = (used: bigint | number, limit: bigint | number) =>
    Number(limit) === 0 ? `${used}, any number` : `${used} of ${limit}`
  out.details([
    ["calls today", text(budget.dailyToolCalls, budget.maxDailyToolCalls)],
    ["tokens today", text(budget.dailyTokens, budget.maxDailyTokens)],
    ["  held", heldText(budget.dailyReservedTokens)],
    ["cost today", text(budget.dailyCostMicros, budget.maxDailyCostMicros)],
    ["  held", heldText(budget.dailyReservedCostMicros)],
    ["warned", timeText(budget.warnTime, io.now())],
    ["new day", timeText(budget.resetTime, io.now())],
    ["set by", budget.updaterId],
    ["etag", budget.etag],
  ])
}

function heldText(amount: bigint): string {
  return amount === 0n ? "" : `${amount} for calls that have not ended`
}
