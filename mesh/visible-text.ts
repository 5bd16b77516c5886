/**
 * Text of others on a person's screen. Whatever a terminal or a reader would not show as it is
 * (control and format characters, changes of direction, tags, blanks that are none) is shown by its
 * number, so that what is read is what is there.
 */
const hidden =
  /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|(?! )\p{Zs}|\p{Default_Ignorable_Code_Point}|\u2800/gu

/** Text on one line with everything hidden made visible, as `\u{202e}`; a backslash is doubled before it. */
export function visible(text: string): string {
  return text.replace(hidden, (character) => `\\u{${hexOf(character)}}`)
}

/** Text of several lines: line breaks and tabs stay. */
export function visibleLines(text: string): string {
  return text.replaceAll("\r\n", "\n").replaceAll("\t", "  ").split("\n").map(visible).join("\n")
}

/** JSON that shows every character and still parses to the same value. */
export function visibleJson(value: unknown): string {
  const json = JSON.stringify(value, null, 2) ?? "null"
  return json
    .split("\n")
    .map((line) => line.replace(hidden, escapeUnits))
    .join("\n")
}

/** One line of at most so many characters. */
export function shortened(text: string, length: number): string {
  const line = visible(text.replaceAll(/\s+/g, " ").trim())
  const characters = [...line]
  return characters.length <= length ? line : `${characters.slice(0, length - 1).join("")}…`
}

function hexOf(character: string): string {
  return (character.codePointAt(0) ?? 0).toString(16).padStart(4, "0")
}

function escapeUnits(character: string): string {
  return character
    .split("")
    .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
    .join("")
}
