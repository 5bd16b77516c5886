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
  readonly dailyToolCalls: number
  readonly etag?: string
}

const mostCalls = 2 ** 32 - 1

export function budgetCommands(cli: Cli): Command {
  return group("budget", "what the workspace's runs may use up in a day", [
    command(cli, "show", "show the budget, and what was used of it today", {
      examples: ["budget show", "budget show -o json"],
      action: showBudget,
    }),
    command<SetOptions>(cli, "set", "set the budget", {
      examples: ["budget set --daily-tool-calls 5000", "budget set --daily-tool-calls 0"],
      more: "\nNeeds an admin. It holds for every call that is admitted from then on.",
      configure: (made) =>
        made
          .requiredOption(
            "--daily-tool-calls <n>",
            "calls that runs may make in a day (UTC); 0 for any number",
            wholeNumber(0, mostCalls),
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
  const { dailyToolCalls: maxDailyToolCalls, etag = "" } = options
  const request = { workspaceId, requestId: newId(), maxDailyToolCalls, etag }
  const response = await session.client(BudgetService).setBudget(request, session.options)
  context.out.message(SetBudgetResponseSchema, response, () => tell(context, response.budget))
}

function tell({ out, io }: Context, budget: WorkspaceBudget | undefined): void {
  if (budget === undefined) return
  const { maxDailyToolCalls: limit, dailyToolCalls: used } = budget
  if (out.isQuiet) out.line(String(limit))
  else
    out.details([
      ["calls a day", limit === 0 ? "any number" : String(limit)],
      ["used today", limit === 0 && used === 0 ? "not counted" : String(used)],
      ["warned", timeText(budget.warnTime, io.now())],
      ["new day", timeText(budget.resetTime, io.now())],
      ["set by", budget.updaterId],
      ["etag", budget.etag],
    ])
}
