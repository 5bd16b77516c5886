import type { JsonValue } from "@bufbuild/protobuf"

/** One text of a content: a string, an object key, or a number as it is written. */
export interface ContentText {
  /** JSON pointer of the value; of the member, for a key. */
  readonly pointer: string
  readonly text: string
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
  const texts: ContentText[] = []
  let units = 0
  let values = 0
  const add = (pointer: string, text: string) => {
    units += text.length
    if (units > maxContentUnits) {
      throw new ContentTooLarge(`the content holds more than ${maxContentUnits} characters`)
    }
    if (text !== "") texts.push({ pointer: pointer.slice(0, maxPointerUnits), text })
  }
  const walk = (value: JsonValue, pointer: string, depth: number): void => {
    values += 1
    if (values > maxContentValues) {
      throw new ContentTooLarge(`the content holds more than ${maxContentValues} values`)
    }
    if (depth > maxDepth) {
      throw new ContentTooLarge(`the content is nested more than ${maxDepth} deep`)
    }
    if (typeof value === "string" || typeof value === "number") {
      add(pointer, String(value))
    } else if (Array.isArray(value)) {
      for (const [index, item] of value.entries()) walk(item, `${pointer}/${index}`, depth + 1)
    } else if (typeof value === "object" && value !== null) {
      for (const [key, member] of Object.entries(value)) {
        const at = `${pointer}/${storable(key)}`
        add(at, key)
        walk(member, at, depth + 1)
      }
    }
  }
  walk(content, "", 0)
  return texts
}

// A pointer is stored with the decision, and the database takes neither NUL nor a lone surrogate.
function storable(key: string): string {
  return key.toWellFormed().replaceAll("\0", "\ufffd").replaceAll("~", "~0").replaceAll("/", "~1")
}
