/**
 * The first key that an object of a JSON text holds twice, however it is escaped; undefined where
 * there is none. `JSON.parse` keeps the last of them without a word, and two readers that each keep
 * another one disagree about what was asked. Broken JSON is left to its parser.
 */
export function findDuplicateKey(text: string): string | undefined {
  // The keys of every object that is open; an array has none.
  const open: (Set<string> | undefined)[] = []
  for (let at = 0; at < text.length; at += 1) {
    switch (text[at]) {
      case "{":
        open.push(new Set())
        break
      case "[":
        open.push(undefined)
        break
      case "}":
      case "]":
        open.pop()
        break
      case '"': {
        const end = endOfString(text, at)
        if (end === undefined) return undefined
        const keys = open.at(-1)
        if (keys !== undefined && isKey(text, end)) {
          const key = unescaped(text.slice(at, end + 1))
          if (keys.has(key)) return key
          keys.add(key)
        }
        at = end
        break
      }
      default:
    }
  }
  return undefined
}

function endOfString(text: string, start: number): number | undefined {
  for (let at = start + 1; at < text.length; at += 1) {
    if (text[at] === '"') return at
    if (text[at] === "\\") at += 1
  }
  return undefined
}

function isKey(text: string, end: number): boolean {
  colon.lastIndex = end + 1
  return colon.test(text)
}

const colon = /[ \t\n\r]*:/y

function unescaped(quoted: string): string {
  if (!quoted.includes("\\")) return quoted.slice(1, -1)
  try {
    return String(JSON.parse(quoted))
  } catch {
    return quoted
  }
}
