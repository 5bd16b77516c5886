/** Trains the embedded classifier: on everything, or five times on four fifths. */
import { writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import {
  type Classifier,
  createClassifier,
  embeddedModelFile,
  windowsOf,
} from "../classifier/embedded.ts"
import { featureCount, featuresOf } from "../classifier/features.ts"
import { decodeModel, encodeModel } from "../classifier/model-file.ts"
import {
  type Calibration,
  calibrate,
  type Example,
  scoreOf,
  trainLinear,
} from "../classifier/training.ts"
import { foldCase, normalise } from "../normalised-text.ts"
import { finish } from "../slices.ts"
import type { LabelledText } from "./labelled-text.ts"
import { groupNearDuplicates } from "./near-duplicates.ts"

export const foldCount = 5
const epochs = 15

interface HeadPlan {
  readonly label: string
  readonly cost: number
  isPositive(text: LabelledText): boolean | undefined
  weigh(text: LabelledText): number
}

/** The labels, in the order of the model. Rare kinds of attack weigh more, or nothing is learnt of them. */
const heads: readonly HeadPlan[] = [
  { label: "harassment", cost: 1, isPositive: (text) => text.isHarassment, weigh: () => 1 },
  { label: "hate", cost: 0.3, isPositive: (text) => text.isHate, weigh: () => 1 },
  {
    label: "prompt-injection",
    cost: 1,
    isPositive: (text) => text.isInjection,
    weigh: ({ set, isInjection }) =>
      set === "prompt extraction" ? 10 : isInjection === true ? 3 : 1,
  },
]

interface Prepared {
  readonly texts: readonly LabelledText[]
  /** The features of each text's windows. */
  readonly windows: readonly (readonly Uint32Array[])[]
  readonly folds: readonly number[]
}

/** A classifier of which no text of a fold was seen in training. */
export interface Folded {
  readonly folds: readonly number[]
  readonly classifiers: readonly Classifier[]
  readonly calibrations: readonly Calibration[]
}

export function prepare(texts: readonly LabelledText[]): Prepared {
  const folded = texts.map(({ text }) => foldCase(finish(normalise(text))))
  const groups = groupNearDuplicates(folded)
  return {
    texts,
    windows: folded.map((text) => windowsOf(text).map(featuresOf)),
    // Spread by a hash of the group, so that neighbours of a file do not stand in one fold.
    folds: groups.map((group) => (Math.imul(group + 1, 0x9e3779b1) >>> 8) % foldCount),
  }
}

/** Trains on four fifths, five times. `tell` hears of each training that ended. */
export function trainFolds(prepared: Prepared, tell: (done: string) => void): Folded {
  const models = heads.map((head) =>
    Array.from({ length: foldCount }, (_, fold) => {
      const model = train(prepared, head, fold)
      tell(`${head.label}, fold ${fold + 1} of ${foldCount}`)
      return model
    }),
  )
  const calibrations = heads.map((head, place) => {
    const scored = prepared.texts.flatMap((text, index) => {
      const isPositive = head.isPositive(text)
      const model = models[place]?.[prepared.folds[index] ?? 0]
      if (isPositive === undefined || model === undefined) return []
      const scores = (prepared.windows[index] ?? []).map((window) => scoreOf(model, window))
      return [{ score: Math.max(...scores), isPositive, weight: 1 }]
    })
    return calibrate(scored)
  })
  const classifiers = Array.from({ length: foldCount }, (_, fold) =>
    toClassifier(
      `fold-${fold}`,
      models.map((ofHead) => ofHead[fold]),
      calibrations,
    ),
  )
  return { folds: prepared.folds, classifiers, calibrations }
}

/** Trains on everything and writes the file that ships, calibrated out of fold. */
export function trainWhole(
  prepared: Prepared,
  version: string,
  calibrations: readonly Calibration[],
): { readonly file: string; readonly size: number } {
  const models = heads.map((head) => train(prepared, head))
  const bytes = encode(version, models, calibrations)
  writeFileSync(embeddedModelFile, bytes)
  return { file: fileURLToPath(embeddedModelFile), size: bytes.length }
}

type Trained = ReturnType<typeof trainLinear>

function train({ texts, windows, folds }: Prepared, head: HeadPlan, without?: number): Trained {
  const examples: Example[] = []
  for (const [index, text] of texts.entries()) {
    const isPositive = head.isPositive(text)
    const own = windows[index] ?? []
    if (isPositive === undefined || folds[index] === without) continue
    const weight = head.weigh(text) / own.length
    for (const features of own) examples.push({ features, isPositive, weight })
  }
  return trainLinear(examples, { featureCount, cost: head.cost, epochs })
}

function toClassifier(
  version: string,
  models: readonly (Trained | undefined)[],
  calibrations: readonly Calibration[],
): Classifier {
  const whole = models.filter((model) => model !== undefined)
  // Through the file, so that what is measured is as rounded as what ships.
  return createClassifier(decodeModel(encode(version, whole, calibrations)))
}

function encode(
  version: string,
  models: readonly Trained[],
  calibrations: readonly Calibration[],
): Uint8Array {
  return encodeModel(
    version,
    heads.map(({ label }, place) => {
      const model = models[place]
      const calibration = calibrations[place]
      if (model === undefined || calibration === undefined) throw new Error(`no model of ${label}`)
      return { label, model, ...calibration }
    }),
  )
}
