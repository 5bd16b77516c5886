/**
 * The orchestrator: runs, their tool calls and the approvals they wait for.
 *
 * run.ts, tool-call.ts, approval.ts, approval-rule.ts, approval-answer.ts, action.ts, plan.ts   the
 *     pure hearts
 * change.ts, journal-entries.ts, outcome.ts   one transaction's worth of change, built without I/O
 * start-run.ts, new-run.ts, start-key.ts, started-before.ts, tool-pinning.ts   how a run begins
 * budget.ts, run-budget.ts, run-limits.ts, budget-store.ts   what runs may use up and come to, and what becomes of a call then
 * thread-start.ts   who of a thread goes on, and who waits or makes way
 * answers.ts, answered-change.ts, bulk-cancel.ts, watch.ts, run-wait.ts, rest-poller.ts   what else callers do
 * executor.ts, claim-loop.ts, heartbeat.ts, lease.ts, suspicion.ts   who carries a run out
 * run-driver.ts, run-turn.ts, next-move.ts, call-end.ts, held-run.ts   and how far
 * membership.ts, step.ts, judgement.ts, execution.ts, outcome-asking.ts   ask, resolve, judge, act, execute
 * question.ts, rule-books.ts, backing.ts   what people are asked, by which rules, and whether it holds
 * change-store.ts, change-rows.ts, start-store.ts   many changes in one statement
 * journal-sql.ts, journal-chain.ts, journal-delivery.ts, journal-events.ts   what happened, for ever
 * snapshot-store.ts, *-store.ts   every other SQL statement
 * *-handlers.ts, *-message.ts, state-enum.ts   the RPCs and records as messages
 */
import { fileURLToPath } from "node:url"
import type { Client } from "@connectrpc/connect"
import { MembershipService } from "../../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { ModerationService } from "../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { ApprovalRuleService } from "../../gen/runwarden/orchestrator/v1/approval_rule_service_pb.ts"
import { ApprovalService } from "../../gen/runwarden/orchestrator/v1/approval_service_pb.ts"
import { BudgetService } from "../../gen/runwarden/orchestrator/v1/budget_service_pb.ts"
import { BulkRunService } from "../../gen/runwarden/orchestrator/v1/bulk_run_service_pb.ts"
import { DelegationService } from "../../gen/runwarden/orchestrator/v1/delegation_service_pb.ts"
import { OrphanService } from "../../gen/runwarden/orchestrator/v1/orphan_service_pb.ts"
import { RunService } from "../../gen/runwarden/orchestrator/v1/run_service_pb.ts"
import { ThreadService } from "../../gen/runwarden/orchestrator/v1/thread_service_pb.ts"
import { ToolCallService } from "../../gen/runwarden/orchestrator/v1/tool_call_service_pb.ts"
import { EventService } from "../../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { ExecutionService } from "../../gen/runwarden/tools/v1/execution_service_pb.ts"
import { LedgerService } from "../../gen/runwarden/tools/v1/ledger_service_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { type Runtime, route, type Service, type ServiceModule } from "../../mesh/service.ts"
import { approvalHandlers } from "./approval-handlers.ts"
import { approvalRuleHandlers } from "./approval-rule-handlers.ts"
import { budgetHandlers } from "./budget-handlers.ts"
import { bulkRunHandlers } from "./bulk-cancel.ts"
import type { Change } from "./change.ts"
import { createChangeStore } from "./change-store.ts"
import { type OrchestratorConfig, readConfig } from "./config.ts"
import { delegationHandlers } from "./delegation-handlers.ts"
import { Executor } from "./executor.ts"
import { createJournalDelivery } from "./journal-delivery.ts"
import { createNotifier } from "./notifier.ts"
import { orphanHandlers } from "./orphan-handlers.ts"
import { createRestPoller } from "./rest-poller.ts"
import { createRetryBudgets } from "./retry-budget.ts"
import { createRuleBooks } from "./rule-books.ts"
import { runHandlers } from "./run-handlers.ts"
import { warningOfLimits } from "./run-limits.ts"
import { createStartStore } from "./start-store.ts"
import { threadHandlers } from "./thread-handlers.ts"
import { toolCallHandlers } from "./tool-call-handlers.ts"
import { createWatch } from "./watch.ts"

export interface OrchestratorDeps {
  readonly runtime: Runtime
  readonly moderation: Client<typeof ModerationService>
  readonly tools: Client<typeof ExecutionService>
  readonly ledger: Client<typeof LedgerService>
  readonly membership: Client<typeof MembershipService>
  readonly telemetry: Client<typeof EventService>
}

const migrations = fileURLToPath(new URL("./migrations", import.meta.url))

export const orchestratorModule: ServiceModule<OrchestratorConfig> = {
  name: "orchestrator",
  readConfig,
  create: (config, runtime, peers) =>
    createOrchestrator(config, {
      runtime,
      moderation: peers.connect(ModerationService, "moderation"),
      tools: peers.connect(ExecutionService, "tools"),
      ledger: peers.connect(LedgerService, "tools"),
      membership: peers.connect(MembershipService, "gateway"),
      telemetry: peers.connect(EventService, "telemetry"),
    }),
}

/** Creates the service. Nothing connects before `start`. */
export function createOrchestrator(config: OrchestratorConfig, deps: OrchestratorDeps): Service {
  const { runtime, moderation, tools, ledger, membership, telemetry } = deps
  const { approval, runTimeoutMs, limits } = config
  const { tracer, log, reached } = runtime
  const stack = new AsyncDisposableStack()
  const database = stack.use(openDatabase(config.database, { runtime, migrations }))
  const { leaseMs } = config.executor
  const delivery = stack.use(createJournalDelivery({ database, runtime, telemetry, leaseMs }))
  const changes = stack.use(warningOfLimits(createChangeStore(database, approval.maxOpen), limits))
  const starts = stack.use(createStartStore(database, approval.maxOpen))
  const rules = createRuleBooks(database)
  const notifier = createNotifier()
  const advanced = ({ before, run, claim }: Change) => {
    notifier.notify(run.runId)
    delivery.poke()
    // Whose turn it is in the thread now is due.
    if (run.isInLine && claim.kind === "drop") executor.poke()
    if (claim.kind === "release") executor.dueIn(claim.dueAt.getTime() - before.clock.now())
  }
  const executor = stack.use(
    new Executor({
      ...{ database, changes, moderation, tools, membership, approval, rules, limits },
      ...{ tracer, log, reached },
      config: config.executor,
      retries: createRetryBudgets(),
      stored: advanced,
    }),
  )
  const stored = (change: Change) => {
    advanced(change)
    if (change.abortsCall || change.run.endTime !== undefined) executor.cancel(change.run.runId)
    if (change.claim.kind === "wake") executor.poke()
  }
  const stopping = new AbortController()
  stack.defer(() => stopping.abort())
  const watch = createWatch({
    ...{ database, notifier },
    config: config.watch,
    stopping: stopping.signal,
  })
  const answering = { database, changes, executor, stored }
  const waiting = {
    executor,
    rests: stack.use(createRestPoller(database)),
    stopping: stopping.signal,
  }
  const stepping = { moderation, tools, rules, approval, limits, config: config.executor }
  const starting = { ...waiting, ...stepping, starts, runTimeoutMs, reached }
  return {
    routes: [
      route(RunService, runHandlers({ ...answering, ...starting, watch })),
      route(BudgetService, budgetHandlers({ database })),
      route(ThreadService, threadHandlers({ database })),
      route(BulkRunService, bulkRunHandlers(answering)),
      route(ToolCallService, toolCallHandlers(answering)),
      route(ApprovalService, approvalHandlers({ ...answering, membership })),
      route(ApprovalRuleService, approvalRuleHandlers({ database, defaultRule: approval })),
      route(DelegationService, delegationHandlers({ database, membership })),
      route(OrphanService, orphanHandlers({ database, ledger })),
    ],
    async start(signal) {
      await database.migrate(signal)
      await database.verify()
      delivery.start()
      executor.start()
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}
