/**
 * A trained model as it ships: a header of JSON with what it is and how its labels are scored, then one
 * byte for each feature of each label. Little-endian.
 *
 *     "RWM1"  length of the header (uint32)  header  featureCount × int8 for each label, in their order
 */
import { z } from "zod"
import { featureCount, featureVersion } from "./features.ts"
import type { Calibration, LinearModel } from "./training.ts"

/** What a label of a model is told by. */
export interface Head extends Calibration {
  readonly label: string
  readonly bias: number
  /** What one step of a stored weight stands for. */
  readonly scale: number
  readonly weights: Int8Array
}

/** A model that is ready to score. */
export interface Model {
  /** Changes with every training: part of what a decision stands on. */
  readonly version: string
  readonly heads: readonly Head[]
}

const magic = "RWM1"
const largest = 127

const headerSchema = z.object({
  version: z.string(),
  featureVersion: z.literal(featureVersion),
  heads: z
    .array(
      z.object({
        label: z.string(),
        bias: z.number(),
        scale: z.number().positive(),
        slope: z.number(),
        offset: z.number(),
      }),
    )
    .min(1),
})

/** Writes a model. Weights are rounded to 255 steps of their label's largest one. */
export function encodeModel(
  version: string,
  heads: readonly (Calibration & { readonly label: string; readonly model: LinearModel })[],
): Uint8Array {
  const stored = heads.map(({ label, model, slope, offset }) => {
    const scale =
      model.weights.reduce((most, weight) => Math.max(most, Math.abs(weight)), 0) / largest
    const weights = Int8Array.from(model.weights, (weight) => Math.round(weight / scale))
    return { head: { label, bias: model.bias, scale, slope, offset }, weights }
  })
  const header = Buffer.from(
    JSON.stringify({ version, featureVersion, heads: stored.map(({ head }) => head) }),
  )
  const length = Buffer.alloc(4)
  length.writeUInt32LE(header.length)
  const bodies = stored.map(({ weights }) => Buffer.from(weights.buffer))
  return Buffer.concat([Buffer.from(magic), length, header, ...bodies])
}

/** Reads a model. Throws where the file is none, is cut, or was trained on other features. */
export function decodeModel(bytes: Uint8Array): Model {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (buffer.length < 8 || buffer.toString("latin1", 0, 4) !== magic) {
    throw new Error("this is no file of a model")
  }
  const start = 8 + buffer.readUInt32LE(4)
  const header = headerSchema.parse(JSON.parse(buffer.toString("utf8", 8, start)))
  if (buffer.length !== start + header.heads.length * featureCount) {
    throw new Error("the file of the model is cut short or too long")
  }
  return {
    version: header.version,
    heads: header.heads.map((head, place) => {
      const from = start + place * featureCount
      return {
        ...head,
        weights: Int8Array.from(buffer.subarray(from, from + featureCount), signed),
      }
    }),
  }
}

function signed(byte: number): number {
  return byte > largest ? byte - 256 : byte
}
