import type { Database } from "../../../mesh/database.ts"
import { defaultBook, type RuleBook } from "./approval-rule.ts"
import { readRules, toRule } from "./approval-rule-message.ts"
import { findBook } from "./approval-rule-store.ts"

/** By which rules a workspace asks now, and how many questions wait there. */
export interface Asking {
  readonly book: RuleBook
  readonly open: number
}

export interface RuleBooks {
  current(workspaceId: string, signal: AbortSignal): Promise<Asking>
}

/** Reads them anew each time: questions are rare, and no yes may outlive the rule it was given under. */
export function createRuleBooks(database: Database): RuleBooks {
  return {
    async current(workspaceId, signal) {
      const { ruleVersion, rules, open } = await database.tenant(
        workspaceId,
        (tx) => findBook(tx, workspaceId),
        { name: "currentRules", signal, isOneRead: true },
      )
      const book =
        ruleVersion === null || rules === null
          ? defaultBook
          : { ruleVersion, rules: readRules(rules).map(toRule) }
      return { book, open }
    },
  }
}
