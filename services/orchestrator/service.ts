/**
 * The orchestrator: runs, their tool calls and the approvals they wait for.
 *
 * run/        a run and its calls: run.ts, tool-call.ts (pure), snapshot.ts: both as they stand
 *   answers.ts, answered-change.ts, kept-answers.ts, bulk-cancel.ts   what callers do to a run
 *   watch.ts, notifier.ts, run-wait.ts, rest-poller.ts   how they follow it
 * start/      how a run begins: start-run.ts; plan.ts (pure), new-run.ts, tool-pinning.ts, start-key.ts,
 *             started-before.ts; start-store.ts: many in one statement
 * engine/     how it is carried out
 *   executor.ts, claim-loop.ts, heartbeat.ts, lease.ts, suspicion.ts   by whom
 *   run-driver.ts, run-turn.ts, next-move.ts, held-run.ts, call-end.ts   and how far
 *   membership.ts, step.ts, judgement.ts, execution.ts, outcome-asking.ts   ask, resolve, judge, execute
 * approval/   what people are asked (question.ts), by which rules (approval-rule.ts, rule-books.ts), what
 *             they answer (approval-answer.ts), and whether it holds (approval.ts, backing.ts)
 * budget/     what runs may use up and come to, and what becomes of a call then
 * thread/     who of a thread goes on, and who waits or makes way
 * change/     one transaction's worth of change (change.ts), stored with many others in one statement
 * journal/    what happened, for ever, and telemetry told of it
 * action.ts (pure) what a verdict, a risk class and an effect lead to; scope.ts: how long something is
 * worth waiting for. In each room *-handlers.ts and *-message.ts are the RPCs, *-store.ts and *-sql.ts
 * every SQL statement.
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
import { approvalHandlers } from "./approval/approval-handlers.ts"
import { approvalRuleHandlers } from "./approval/approval-rule-handlers.ts"
import { delegationHandlers } from "./approval/delegation-handlers.ts"
import { createRuleBooks } from "./approval/rule-books.ts"
import { budgetHandlers } from "./budget/budget-handlers.ts"
import { warningOfLimits } from "./budget/run-limits.ts"
import type { Change } from "./change/change.ts"
import { createChangeStore } from "./change/change-store.ts"
import { type OrchestratorConfig, readConfig } from "./config.ts"
import { Executor } from "./engine/executor.ts"
import { createRetryBudgets } from "./engine/retry-budget.ts"
import { createJournalDelivery } from "./journal/journal-delivery.ts"
import { bulkRunHandlers } from "./run/bulk-cancel.ts"
import { createNotifier } from "./run/notifier.ts"
import { orphanHandlers } from "./run/orphan-handlers.ts"
import { createRestPoller } from "./run/rest-poller.ts"
import { runHandlers } from "./run/run-handlers.ts"
import { toolCallHandlers } from "./run/tool-call-handlers.ts"
import { createWatch } from "./run/watch.ts"
import { createStartStore } from "./start/start-store.ts"
import { threadHandlers } from "./thread/thread-handlers.ts"

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
