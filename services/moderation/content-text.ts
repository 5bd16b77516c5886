import type { JsonValue } from "@bufbuild/protobuf"

/** One text of a content: a string, an object key, or a number as it is written. */
export interface ContentText {
  readonly place: Place | undefined
  readonly text: string
  readonly isKey: boolean
}

/** Where a value stands; undefined for the content itself. */
export interface Place {
  readonly within: Place | undefined
  readonly key: string | number
}

/** A content that is too large or too deep to be judged as a whole. */
export class ContentTooLarge extends Error {
  override readonly name = "ContentTooLarge"
}

export const maxContentUnits = 1_048_576
export const maxContentValues = 10_000
const maxDepth = 100
const maxPointerUnits = 512

/** Every text of a content with its place. Throws `ContentTooLarge` rather than leave any out. */
export function textsOf(content: JsonValue): readonly ContentText[] {
  const walk: Walk = { texts: [], units: 0, values: 0 }
  visit(walk, content, undefined, 0)
  return walk.texts
}

/** JSON pointer of a place: of the value, or of the member for a key. Written only when it is asked for. */
export function pointerOf(place: Place | undefined): string {
  const keys: string[] = []
  for (let at = place; at !== undefined; at = at.within) {
    keys.push(typeof at.key === "number" ? String(at.key) : storable(at.key))
  }
  return keys.length === 0 ? "" : `/${keys.reverse().join("/")}`.slice(0, maxPointerUnits)
}

interface Walk {
  readonly texts: ContentText[]
  units: number
  values: number
}

function visit(walk: Walk, value: JsonValue, place: Place | undefined, depth: number): void {
  walk.values += 1
  if (walk.values > maxContentValues) {
    throw new ContentTooLarge(`the content holds more than ${maxContentValues} values`)
  }
  if (depth > maxDepth) {
    throw new ContentTooLarge(`the content is nested more than ${maxDepth} deep`)
  }
  if (typeof value === "string" || typeof value === "number") {
    add(walk, { place, text: String(value), isKey: false })
  } else if (Array.isArray(value)) {
    for (let index = 0; index < value.length; index += 1) {
      visit(walk, value[index] ?? null, { within: place, key: index }, depth + 1)
    }
  } else if (typeof value === "object" && value !== null) {
    for (const key of Object.keys(value)) {
      const at = { within: place, key }
      add(walk, { place: at, text: key, isKey: true })
      visit(walk, value[key] ?? null, at, depth + 1)
    }
  }
}

function add(walk: Walk, found: ContentText): void {
  const { text } = found
  walk.units += text.length
  if (walk.units > maxContentUnits) {
    throw new ContentTooLarge(`the content holds more than ${maxContentUnits} characters`)
  }
  if (text !== "") walk.texts.push(found)
}

// A pointer is stored with the decision, and the database takes neither NUL nor a lone surrogate.
function storable(key: string): string {
  return key.toWellFormed().replaceAll("\0", "\ufffd").replaceAll("~", "~0").replaceAll("/", "~1")
}
