/** ECMAScript's patterns in the words of RE2, with a bound on what RE2 makes of them. */
import { SchemaRefusal } from "./refusal.ts"

/** Of one pattern. */
export const maxStates = 5_000
const maxRepeat = 1_000

/** The same pattern for RE2, and about how many states it has there. Throws SchemaRefusal. */
export function toRe2(pattern: string): Part {
  return new Translation(pattern).whole()
}

export function refusePattern(pattern: string, why: string): never {
  throw new SchemaRefusal(`The pattern ${JSON.stringify(pattern.slice(0, 80))} is refused: ${why}.`)
}

/** What `\s` stands for in ECMAScript, and all the rest, as the inside of a class. */
const blanks =
  "\\t-\\r \\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}\\x{feff}"
const noBlanks =
  "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{fefe}\\x{ff00}-\\x{10ffff}"
const anyButLineEnds = "[^\\n\\r\\x{2028}\\x{2029}]"
const classStates = 4
const propertyStates = 64
const generalCategories: Readonly<Record<string, string>> = {
  Letter: "L",
  Uppercase_Letter: "Lu",
  Lowercase_Letter: "Ll",
  Mark: "M",
  Number: "N",
  Decimal_Number: "Nd",
  digit: "Nd",
  Punctuation: "P",
  punct: "P",
  Symbol: "S",
  Separator: "Z",
  Space_Separator: "Zs",
  Other: "C",
  Control: "Cc",
  cntrl: "Cc",
}

interface Part {
  readonly expression: string
  readonly states: number
}

/** The inside of a class; one state is one character, more are several. */
interface Inside {
  readonly inside: string
  readonly states: number
}

/** Reads a pattern once, from left to right. */
class Translation {
  readonly #pattern: string
  #at = 0

  constructor(pattern: string) {
    this.#pattern = pattern
    if (!isEcmaScript(pattern)) this.#refuse("it is no pattern of ECMAScript")
  }

  whole(): Part {
    const part = this.#alternatives()
    if (this.#at < this.#pattern.length) this.#refuse("it has a bracket too many")
    return part
  }

  #alternatives(): Part {
    const expressions: string[] = []
    let states = 0
    do {
      if (expressions.length > 0) this.#at++
      const one = this.#sequence()
      expressions.push(one.expression)
      states += one.states + 1
    } while (this.#pattern[this.#at] === "|")
    return { expression: expressions.join("|"), states }
  }

  #sequence(): Part {
    let expression = ""
    let states = 0
    while (this.#at < this.#pattern.length && !/[|)]/.test(this.#pattern[this.#at] ?? "")) {
      const atom = this.#atom()
      const { text, times } = this.#repeat()
      expression += atom.expression + text
      states += atom.states * times
      if (states > maxStates) return this.#refuse("it repeats too much")
    }
    return { expression, states }
  }

  /** How often the last atom comes; once where nothing says so. */
  #repeat(): { readonly text: string; readonly times: number } {
    const found = /^(?:[*+?]|\{\d+(?:,\d*)?\})\??/.exec(this.#pattern.slice(this.#at))
    if (found === null) return { text: "", times: 1 }
    const [text] = found
    this.#at += text.length
    const [least = 1, most = least] = [...text.matchAll(/\d+/g)].map(Number)
    if (Math.max(least, most) > maxRepeat) this.#refuse(`it repeats more than ${maxRepeat} times`)
    return { text, times: Math.max(least, most, 1) + 1 }
  }

  #atom(): Part {
    const character = this.#take()
    if (character === "(") return this.#group()
    if (character === "[") return this.#class()
    if (character === ".") return { expression: anyButLineEnds, states: classStates }
    if (character === "\\") return this.#escape()
    if (character === "^" || character === "$") return { expression: character, states: 1 }
    return { expression: literal(character), states: 1 }
  }

  #group(): Part {
    const found = /^\?(?:[:=!]|<[=!]|<[A-Za-z_$][\w$]*>)?/.exec(this.#pattern.slice(this.#at))
    if (found !== null) {
      const [start] = found
      if (start !== "?:" && !/^\?<[A-Za-z_$]/.test(start)) {
        this.#refuse("it looks around, or sets flags")
      }
      this.#at += start.length
    }
    const { expression, states } = this.#alternatives()
    if (this.#take() !== ")") this.#refuse("a bracket is missing")
    return { expression: `(?:${expression})`, states: states + 1 }
  }

  #escape(): Part {
    const letter = this.#take()
    if (letter === "b" || letter === "B") return { expression: `\\${letter}`, states: 1 }
    if (/[1-9k]/.test(letter)) this.#refuse("it refers back")
    const { inside, states } = this.#escaped(letter)
    return { expression: `[${inside}]`, states }
  }

  #class(): Part {
    const isNegated = this.#pattern[this.#at] === "^"
    if (isNegated) this.#at++
    let inside = ""
    let states = classStates
    while (this.#pattern[this.#at] !== "]") {
      const first = this.#member()
      inside += first.inside
      states += first.states
      // A minus beside a class of characters, or at an end, is itself: the next member.
      if (!/^-[^\]]/.test(this.#pattern.slice(this.#at)) || first.states > 1) continue
      this.#at++
      const last = this.#member()
      inside += last.states > 1 ? `\\-${last.inside}` : `-${last.inside}`
      states += last.states
    }
    this.#at++
    if (inside === "") {
      // Nothing is in an empty class, and everything outside of it.
      return { expression: isNegated ? "[\\x{0}-\\x{10ffff}]" : "[^\\x{0}-\\x{10ffff}]", states }
    }
    return { expression: `[${isNegated ? "^" : ""}${inside}]`, states }
  }

  #member(): Inside {
    if (this.#at >= this.#pattern.length) this.#refuse("a bracket is missing")
    const character = this.#take()
    if (character !== "\\") return { inside: literal(character), states: 1 }
    const letter = this.#take()
    return letter === "b" ? { inside: "\\x{8}", states: 1 } : this.#escaped(letter)
  }

  /** What an escape stands for, as the inside of a class. */
  #escaped(letter: string): Inside {
    switch (letter) {
      case "d":
      case "D":
      case "w":
      case "W":
        return { inside: `\\${letter}`, states: classStates }
      case "s":
        return { inside: blanks, states: classStates }
      case "S":
        return { inside: noBlanks, states: classStates }
      case "t":
      case "n":
      case "v":
      case "f":
      case "r":
        return { inside: `\\${letter}`, states: 1 }
      case "0":
        if (/\d/.test(this.#pattern[this.#at] ?? "")) this.#refuse("it has an octal escape")
        return { inside: "\\x{0}", states: 1 }
      case "c":
        return { inside: codePoint(this.#take().charCodeAt(0) % 32), states: 1 }
      case "x":
        return { inside: codePoint(this.#hex(/^[0-9A-Fa-f]{2}/)), states: 1 }
      case "u":
        return { inside: codePoint(this.#unicode()), states: 1 }
      case "p":
      case "P":
        return { inside: `\\${letter}{${this.#property()}}`, states: propertyStates }
      default:
        if (/[A-Za-z0-9]/.test(letter)) this.#refuse(`it has an unknown escape, \\${letter}`)
        return { inside: literal(letter), states: 1 }
    }
  }

  #unicode(): number {
    if (this.#pattern[this.#at] === "{") {
      const found = /^\{([0-9A-Fa-f]+)\}/.exec(this.#pattern.slice(this.#at))
      this.#at += found?.[0].length ?? 0
      return Number.parseInt(found?.[1] ?? "", 16)
    }
    const first = this.#hex(/^[0-9A-Fa-f]{4}/)
    const low = /^\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})/.exec(this.#pattern.slice(this.#at))
    if (first < 0xd800 || first > 0xdbff || low === null) return first
    this.#at += low[0].length
    return 0x10000 + (first - 0xd800) * 0x400 + Number.parseInt(low[1] ?? "", 16) - 0xdc00
  }

  #hex(digits: RegExp): number {
    const found = digits.exec(this.#pattern.slice(this.#at))
    if (found === null) return this.#refuse("it has an escape without its digits")
    this.#at += found[0].length
    return Number.parseInt(found[0], 16)
  }

  #property(): string {
    const found = /^\{(?:(?<script>Script|sc)=|(?:General_Category|gc)=)?(?<name>\w+)\}/.exec(
      this.#pattern.slice(this.#at),
    )
    const { script, name = "" } = found?.groups ?? {}
    const category = Object.hasOwn(generalCategories, name) ? generalCategories[name] : name
    const isKnown = script === undefined ? /^[CLMNPSZ][a-z]?$/.test(category ?? "") : name !== ""
    if (!isKnown) return this.#refuse("it has a property that is not supported")
    this.#at += found?.[0].length ?? 0
    return category ?? name
  }

  #take(): string {
    const character = String.fromCodePoint(this.#pattern.codePointAt(this.#at) ?? 0)
    this.#at += character.length
    return character
  }

  #refuse(why: string): never {
    return refusePattern(this.#pattern, why)
  }
}

/** With its stricter, Unicode-aware syntax, or with the one that older patterns are written in. */
function isEcmaScript(pattern: string): boolean {
  return ["u", ""].some((flags) => {
    try {
      return new RegExp(pattern, flags) instanceof RegExp
    } catch {
      return false
    }
  })
}

function literal(character: string): string {
  return /[\p{L}\p{N} ]/u.test(character) ? character : codePoint(character.codePointAt(0) ?? 0)
}

function codePoint(value: number): string {
  return `\\x{${value.toString(16)}}`
}
