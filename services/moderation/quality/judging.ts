/** Judges texts by the default policy, with whichever classifiers. */
import { shippedClassifiers } from "../classifier/embedded.ts"
import { readShippedPolicies } from "../default-policy.ts"
import { evaluate } from "../evaluation.ts"
import { judgeNow } from "../judge.ts"
import { foldCase, normalise } from "../normalised-text.ts"
import type { Classifiers, JudgeInput, Policy } from "../policy.ts"
import type { SubjectName } from "../rule.ts"
import { finish } from "../slices.ts"

/** What was found in a text. */
export interface Found {
  readonly verdict: "allowed" | "flagged" | "blocked"
  /** The score of each label, whatever the policy makes of it. */
  readonly scores: ReadonlyMap<string, number>
}

/** A policy, and the classifiers that it asks. */
export interface Judge extends Policy {
  readonly classifiers: Classifiers
}

/** The default policy that judges where none was activated, with these classifiers. */
export function judgeAs(classifiers: Classifiers): Judge {
  const latest = readShippedPolicies(classifiers).at(-1)
  if (latest === undefined) throw new Error("no policy ships")
  return { ...latest.policy, classifiers }
}

/** The default policy with the classifiers that ship. */
export function shippedJudge(): Judge {
  return judgeAs(shippedClassifiers())
}

/** Judges one text, as the only one of its content. Throws where it could not be judged. */
export function decide(judge: Judge, subject: SubjectName, text: string): Found {
  const judgement = judgeNow(judge, inputOf(subject, text))
  if (judgement.kind === "failed") throw new Error(judgement.failure)
  const folded = foldCase(finish(normalise(text)))
  const scores = new Map<string, number>()
  for (const classifier of judge.classifiers.values()) {
    const found = finish(classifier.scoresOf(folded))
    for (const [place, label] of classifier.labels.entries()) scores.set(label, found[place] ?? 0)
  }
  return { verdict: judgement.kind, scores }
}

const decisions = 2_000
const units = 2_048
const words =
  "the quarterly report lists every open invoice by customer and by age so that the team sees which of them need a reminder".split(
    " ",
  )

/** How long decisions on 2 KB take, in milliseconds, after as many to warm up. */
export async function timeDecisions(policy: Policy) {
  const signal = new AbortController().signal
  const times: number[] = []
  for (let n = 0; n < 2 * decisions; n++) {
    const input = inputOf("tool_arguments", textOf(n))
    const startedAt = performance.now()
    await evaluate(() => policy, input, { signal, limitMs: 1_000 })
    if (n >= decisions) times.push(performance.now() - startedAt)
  }
  times.sort((a, b) => a - b)
  const at = (share: number) => times[Math.floor(times.length * share)] ?? Number.NaN
  return { count: decisions, p50: at(0.5), p99: at(0.99) }
}

/** Words in another order each time. */
function textOf(n: number): string {
  let text = `Report ${n}.`
  for (let at = 0; text.length < units; at++) {
    text += ` ${words[(at * (n + 7) + at * at) % words.length]}`
  }
  return text.slice(0, units)
}

function inputOf(subject: SubjectName, text: string): JudgeInput {
  return {
    subject,
    tool: subject === "run_input" ? "" : "documents/document.create",
    content: { text },
    actor: { id: "0199f1c2-7d4e-7c3a-9b1f-2f6f0f3f4a51", role: "member" },
    risk: "medium",
    effect: "keyed",
    history: [],
    provenance: [],
  }
}
