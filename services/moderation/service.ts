/**
 * The moderation service: verdicts on what a run is about to do, and the policies behind them.
 *
 * judge.ts              judges one content by one compiled policy; never throws
 *   policy.ts, rule.ts  compiles the rules of a version, or says which one is broken
 *   expression.ts, expression-bounds.ts   CEL under a meter
 *   pattern-book.ts, word-book.ts         RE2 patterns and word lists over texts
 *   pattern-need.ts, literal-scan.ts      which patterns could occur in a text at all
 *   content-text.ts, normalised-text.ts, decoded-text.ts   the texts, in every form that is judged
 *   classifier/         the classifier that ships: embedded.ts scores by model-file.ts what features.ts
 *                       sees; training.ts makes it (docs/moderation-model.md)
 *   quality/            trains it, and judges by it out of fold: for benches
 *   slices.ts           gives way to the event loop between steps
 * evaluation.ts         a judgement with digest and latency, whatever goes wrong
 * policy-book.ts        compiled versions, and which one judges whom
 * decision-log.ts       brings decisions into the database, some after they were answered
 * default-policy.ts     the versions of `default` in policies/
 * *-handlers.ts, *-message.ts, *-store.ts   RPCs, messages and SQL by noun
 */
import { join } from "node:path"
import { DecisionService } from "../../gen/runwarden/moderation/v1/decision_service_pb.ts"
import { ModerationService } from "../../gen/runwarden/moderation/v1/moderation_service_pb.ts"
import { PolicyService } from "../../gen/runwarden/moderation/v1/policy_service_pb.ts"
import { openDatabase } from "../../mesh/database.ts"
import { type Runtime, route, type Service, type ServiceModule } from "../../mesh/service.ts"
import { shippedClassifiers } from "./classifier/embedded.ts"
import { type ModerationConfig, readConfig } from "./config.ts"
import { decisionHandlers } from "./decision-handlers.ts"
import { createDecisionLog } from "./decision-log.ts"
import { readShippedPolicies } from "./default-policy.ts"
import { moderationHandlers } from "./moderation-handlers.ts"
import { createPolicyBook } from "./policy-book.ts"
import { policyHandlers } from "./policy-handlers.ts"

export interface ModerationDeps {
  readonly runtime: Runtime
}

/** A tool's result may be larger than what services send each other as a rule. */
const readLimits = { "runwarden.moderation.v1.ModerationService/Moderate": 1024 * 1024 }

export const moderationModule: ServiceModule<ModerationConfig> = {
  name: "moderation",
  readLimits,
  readConfig,
  create: (config, runtime) => createModeration(config, { runtime }),
}

/** Creates the service. Throws where the shipped default policy or classifier is broken. */
export function createModeration(config: ModerationConfig, { runtime }: ModerationDeps): Service {
  const classifiers = shippedClassifiers()
  const shipped = readShippedPolicies(classifiers)
  const stack = new AsyncDisposableStack()
  const database = stack.use(
    openDatabase(config.database, { runtime, migrations: join(import.meta.dirname, "migrations") }),
  )
  const book = createPolicyBook({ database, shipped, classifiers })
  const log = stack.use(createDecisionLog({ database, book, log: runtime.log }))
  const limitMs = config.evaluationLimitMs
  return {
    routes: [
      route(ModerationService, moderationHandlers({ log, book, limitMs })),
      route(PolicyService, policyHandlers({ database, book, shipped, classifiers, limitMs })),
      route(DecisionService, decisionHandlers({ database, log })),
    ],
    async start(signal) {
      await database.migrate(signal)
      await database.verify()
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  }
}
