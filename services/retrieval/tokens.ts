/**
 * A word or identifier of a text.
 *
 * - `word`: a run of letters and digits, folded; found by its stem.
 * - `exact`: an identifier as it is written (`pg_stat_activity`, `$libdir`, `.pgpass`), in lower case.
 * - `keyword`: a word in capitals (`NOT`, `GIN`), beside its `word`, so that keywords that are
 *   everyday words can be told from them.
 */
export interface Token {
  readonly kind: "word" | "exact" | "keyword"
  readonly text: string
  /** Number of the word in the text; an identifier has the number of its first word. */
  readonly position: number
  /** Where it starts, in UTF-16 units of the text. */
  readonly offset: number
}

/** Longest token that is kept; longer ones are cut, which still finds them. */
const maxTokenLength = 64

const runs = /[\p{L}\p{N}\p{M}\p{Cf}_$.\-/:\\@#+~%]+/gu
const words = /[\p{L}\p{N}\p{M}\p{Cf}]+/gu
const unspaced =
  /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}]/u
const isAscii = /^[ -~]*$/

/** Reads the tokens of a text in order; positions start at `firstPosition`. */
export function readTokens(text: string, firstPosition = 0): readonly Token[] {
  const tokens: Token[] = []
  let position = firstPosition
  for (const run of text.matchAll(runs)) {
    const first = position
    for (const word of run[0].matchAll(words)) {
      position = pushWord(tokens, word[0], position, run.index + word.index)
    }
    if (position > first) pushIdentifiers(tokens, run[0], first, run.index)
  }
  return tokens
}

/** Letters as they are compared: compatibility forms, case, accents and invisible marks are folded. */
export function fold(text: string): string {
  const lower = text.toLowerCase()
  if (isAscii.test(lower)) return lower
  return lower
    .normalize("NFKD")
    .replace(/[\p{Mn}\p{Cf}]/gu, "")
    .normalize("NFC")
    .toLowerCase()
}

function pushWord(tokens: Token[], raw: string, first: number, offset: number): number {
  const folded = fold(raw)
  if (folded === "") return first
  if (unspaced.test(folded)) return pushPairs(tokens, folded, first, offset)
  tokens.push({ kind: "word", text: clip(folded), position: first, offset })
  if (raw.length >= 2 && raw.length <= maxTokenLength && /^[A-Z][A-Z0-9]+$/.test(raw))
    tokens.push({ kind: "keyword", text: raw, position: first, offset })
  return first + 1
}

/** Scripts that write no spaces are found by pairs of neighbouring characters. */
function pushPairs(tokens: Token[], text: string, first: number, offset: number): number {
  const characters = [...text]
  if (characters.length === 1) {
    tokens.push({ kind: "word", text, position: first, offset })
    return first + 1
  }
  for (let i = 0; i + 1 < characters.length; i++) {
    const pair = `${characters[i]}${characters[i + 1]}`
    tokens.push({ kind: "word", text: pair, position: first + i, offset })
  }
  return first + characters.length - 1
}

function pushIdentifiers(tokens: Token[], run: string, position: number, offset: number): void {
  const whole = fold(run)
    .replace(/^[-/:+~%#@]+(?=.)/, "")
    .replace(/[-./:\\+~%#@]+$/, "")
  if (!/[_$.\-/:\\@#]/.test(whole) && !/^\d*[a-z]+\d/.test(whole)) return
  const names = new Set([
    whole,
    ...whole.split(/[./:\\@#+~%-]+/).filter((name) => /[_$]/.test(name)),
  ])
  for (const name of names) {
    if (name.length > 1) tokens.push({ kind: "exact", text: clip(name), position, offset })
  }
}

function clip(text: string): string {
  if (text.length <= maxTokenLength) return text
  const clipped = text.slice(0, maxTokenLength)
  return clipped.isWellFormed() ? clipped : clipped.slice(0, -1)
}
