/**
 * Sums as people type them: numbers, + - * / and parentheses, in binary floating point, as the shop
 * itself reckons. undefined where it is not one, or has no finite value.
 */
export function evaluate(expression: string): number | undefined {
  const tokens = tokensOf(expression)
  if (tokens === undefined) return undefined
  const reader = { tokens, at: 0 }
  const value = sum(reader)
  const isWhole = reader.at === tokens.length && value !== undefined && Number.isFinite(value)
  return isWhole ? value : undefined
}

/** To cents: the nearest by the number's exact value, and of two that are as near the even one. */
export function toCents(value: number): number {
  const near = Number(value.toFixed(2))
  const units = Math.round(near * 100)
  // Only an odd number of eighths lies exactly between two cents, and `toFixed` takes the larger.
  const isTie = Number.isInteger(value * 8) && !Number.isInteger(value * 4)
  return isTie && units % 2 !== 0 ? Number(((units - Math.sign(value)) / 100).toFixed(2)) : near
}

interface Reader {
  readonly tokens: readonly string[]
  at: number
}

/** Nesting deeper than this is no sum that a person types. */
const maxTokens = 500

function tokensOf(expression: string): readonly string[] | undefined {
  const found = expression.match(/\d+(?:\.\d*)?|\.\d+|[-+*/()]|[^\s]/g) ?? []
  const isFine = found.every((token) => /^(?:[\d.]+|[-+*/()])$/.test(token) && token !== ".")
  return isFine && found.length > 0 && found.length <= maxTokens ? found : undefined
}

function sum(reader: Reader): number | undefined {
  let value = product(reader)
  for (;;) {
    const sign = take(reader, "+", "-")
    if (sign === undefined || value === undefined) return value
    const next = product(reader)
    if (next === undefined) return undefined
    value = sign === "+" ? value + next : value - next
  }
}

function product(reader: Reader): number | undefined {
  let value = factor(reader)
  for (;;) {
    const sign = take(reader, "*", "/")
    if (sign === undefined || value === undefined) return value
    const next = factor(reader)
    if (next === undefined) return undefined
    value = sign === "*" ? value * next : value / next
  }
}

function factor(reader: Reader): number | undefined {
  const sign = take(reader, "+", "-")
  if (sign !== undefined) {
    const value = factor(reader)
    return value === undefined || sign === "+" ? value : -value
  }
  if (take(reader, "(") !== undefined) {
    const value = sum(reader)
    return take(reader, ")") === undefined ? undefined : value
  }
  const token = reader.tokens[reader.at]
  if (token === undefined || !/\d/.test(token)) return undefined
  reader.at++
  return Number(token)
}

function take(reader: Reader, ...wanted: readonly string[]): string | undefined {
  const token = reader.tokens[reader.at]
  if (token === undefined || !wanted.includes(token)) return undefined
  reader.at++
  return token
}
