/** What can be judged. */
export type SubjectName = "run_input" | "tool_arguments" | "tool_result"

/** What a repeat of a call does. */
export type EffectName = "read" | "keyed" | "unsafe"

/** How much harm a call can do. */
export type RiskName = "low" | "medium" | "high"

/** A verdict that a rule can speak. */
export type RuleVerdict = "flagged" | "blocked"

/** Where a rule applies; an empty list does not narrow. */
export interface RuleScope {
  readonly subjects: readonly SubjectName[]
  readonly tools: readonly string[]
  readonly exceptTools: readonly string[]
  readonly effects: readonly EffectName[]
}

/** What a rule looks for. */
export type RuleMatcher =
  | { readonly kind: "expression"; readonly expression: string }
  | {
      readonly kind: "patterns"
      readonly patterns: readonly string[]
      readonly check: "none" | "luhn"
    }
  | { readonly kind: "words"; readonly words: readonly string[] }
  | {
      readonly kind: "classifier"
      readonly classifier: string
      readonly label: string
      /** From 0 to 1. */
      readonly threshold: number
    }

/** One rule of a policy, as its author wrote it. */
export interface Rule {
  readonly ruleId: string
  readonly verdict: RuleVerdict
  readonly category: string
  readonly description: string
  readonly scope: RuleScope
  readonly matcher: RuleMatcher
}

/** What a scope is held against. */
export interface ScopedCall {
  readonly subject: SubjectName
  /** Empty for a run's input. */
  readonly tool: string
  readonly effect: EffectName
}

/** Compiles a scope into a test. */
export function scopeTest(scope: RuleScope): (call: ScopedCall) => boolean {
  const includes = scope.tools.map(globTest)
  const excludes = scope.exceptTools.map(globTest)
  return ({ subject, tool, effect }) =>
    (scope.subjects.length === 0 || scope.subjects.includes(subject)) &&
    (scope.effects.length === 0 || (subject !== "run_input" && scope.effects.includes(effect))) &&
    (includes.length === 0 || includes.some((test) => test(tool))) &&
    !excludes.some((test) => test(tool))
}

/** A test for a pattern in which `*` stands for any characters. Linear in the name. */
export function globTest(glob: string): (name: string) => boolean {
  const [first = "", ...others] = glob.split("*")
  const last = others.pop()
  if (last === undefined) return (name) => name === glob
  return (name) => {
    if (!name.startsWith(first)) return false
    let at = first.length
    for (const part of others) {
      const found = name.indexOf(part, at)
      if (found < 0) return false
      at = found + part.length
    }
    return name.length - last.length >= at && name.endsWith(last)
  }
}
