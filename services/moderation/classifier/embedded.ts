/**
 * The classifier that ships with the service: scores of a text for each label it was trained on, from
 * 0 to 1, without a network. `npm run train:moderation` makes its file; docs/moderation-model.md says of
 * what, and where it fails.
 */
import { readFileSync } from "node:fs"
import type { Steps } from "../slices.ts"
import { featuresOf } from "./features.ts"
import { decodeModel, type Head, type Model } from "./model-file.ts"

/** Tells how much a text is like those of a label. */
export interface Classifier {
  readonly labels: readonly string[]
  /**
   * A score from 0 to 1 for each label, in their order: the highest of the text's windows. The text is
   * normalised and in lower case. Yields between windows.
   */
  scoresOf(text: string): Steps<readonly number[]>
}

/** A longer text is scored in windows of this many UTF-16 units; each begins in the middle of the last. */
export const windowUnits = 2_048

/** The windows of a text: every 1,024 units of it stand together in one of them. */
export function windowsOf(text: string): readonly string[] {
  if (text.length <= windowUnits) return [text]
  const step = windowUnits / 2
  const count = Math.ceil((text.length - step) / step)
  return Array.from({ length: count }, (_, n) => text.slice(n * step, n * step + windowUnits))
}

/** Short texts come again, such as the keys of a tool's arguments: as many are remembered. */
const maxRemembered = 4_096
const maxRememberedUnits = 128

export function createClassifier({ heads }: Model): Classifier {
  const remembered = new Map<string, readonly number[]>()

  function score(window: string): readonly number[] {
    const known = remembered.get(window)
    if (known !== undefined) return known
    const features = featuresOf(window)
    const scores = heads.map((head) => probability(head, features))
    if (window.length <= maxRememberedUnits) {
      if (remembered.size === maxRemembered) remembered.clear()
      remembered.set(window, scores)
    }
    return scores
  }

  return {
    labels: heads.map(({ label }) => label),
    *scoresOf(text) {
      let highest: readonly number[] = heads.map(() => 0)
      for (const window of windowsOf(text)) {
        const scores = score(window)
        highest = highest.map((before, place) => Math.max(before, scores[place] ?? 0))
        yield
      }
      return highest
    },
  }
}

function probability(head: Head, features: Uint32Array): number {
  const { weights, scale, bias, slope, offset } = head
  let sum = 0
  for (const feature of features) sum += weights[feature] ?? 0
  const unit = features.length === 0 ? 0 : 1 / Math.sqrt(features.length)
  return 1 / (1 + Math.exp(-(slope * (sum * scale * unit + bias) + offset)))
}

/** The file that ships. */
export const embeddedModelFile = new URL("./embedded.model", import.meta.url)

let shipped: ReadonlyMap<string, Classifier> | undefined

/** The classifiers that ship, by name, read once. Throws where a file is missing or broken. */
export function shippedClassifiers(): ReadonlyMap<string, Classifier> {
  shipped ??= new Map([
    ["embedded", createClassifier(decodeModel(readFileSync(embeddedModelFile)))],
  ])
  return shipped
}
