/**
 * What somebody may try who holds one approval and wants another call: the bound call, changed in one
 * place. For tests.
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { canonicalJson } from "../../../mesh/canonical.ts"
import type { ApprovalBinding } from "./approval.ts"

export interface Mutant {
  readonly name: string
  readonly binding: ApprovalBinding
}

/** Every change of one member of a binding, and many of its arguments; at least 200. */
export function mutantsOf(binding: ApprovalBinding): readonly Mutant[] {
  const others: readonly (readonly [string, Partial<ApprovalBinding>])[] = [
    ["another workspace", { workspaceId: flipped(binding.workspaceId) }],
    ["another run", { runId: flipped(binding.runId) }],
    ["another step", { stepIndex: binding.stepIndex + 1 }],
    ["another title", { title: `${binding.title} ` }],
    ["another tool", { tool: binding.tool.replace(/[^/]+$/, "low.keyed") }],
    ["another provider", { tool: binding.tool.replace(/^[^/]+/, "evil") }],
    ["a twin of the tool", { tool: binding.tool.replace("e", "е") }],
    ["another version", { toolVersion: `${binding.toolVersion}1` }],
    ["another definition", { definitionDigest: flipped(binding.definitionDigest) }],
    ["another risk", { riskClass: binding.riskClass === "high" ? "low" : "high" }],
    ["another effect", { effect: binding.effect === "read" ? "unsafe" : "read" }],
    ["another policy", { policyVersion: `${binding.policyVersion}0` }],
    ["another verdict", { verdict: binding.verdict === "allowed" ? "flagged" : "allowed" }],
    ["another requester", { requesterId: flipped(binding.requesterId) }],
    ["a later expiry", { expiresAtMs: binding.expiresAtMs + 1 }],
    ["an earlier expiry", { expiresAtMs: binding.expiresAtMs - 1 }],
    ["another rule version", { rule: { ...binding.rule, ruleVersion: "rules@77" } }],
    ["another rule", { rule: { ...binding.rule, ruleId: "other" } }],
    ["another role", { rule: { ...binding.rule, approverRole: 7 - binding.rule.approverRole } }],
    ["the requester's own", { rule: flag(binding, "isDistinctFromRequester") }],
    ["another quorum", { rule: { ...binding.rule, quorum: binding.rule.quorum + 1 } }],
    ["other delegation", { rule: flag(binding, "allowsDelegation") }],
    ["other break-glass", { rule: flag(binding, "allowsBreakGlass") }],
  ]
  return [
    ...others.map(([name, change]) => ({ name, binding: { ...binding, ...change } })),
    ...mutantArguments(binding.arguments).map((mutant) => ({
      name: mutant.name,
      binding: { ...binding, arguments: mutant.arguments },
    })),
  ]
}

/** Arguments in which each kind of value is there to be changed. */
export const rich: JsonObject = {
  account: "DE89370400440532013000",
  amount: 40,
  exact: 40.5,
  zero: 0,
  big: 9_007_199_254_740_991,
  note: "Grüße an Zoë – pay now",
  empty: "",
  is_final: true,
  is_draft: false,
  nothing: null,
  tags: ["alpha", "beta", 3, null],
  to: { name: "Ann", address: { city: "Köln", zip: "50667" }, list: [] },
}

/** Arguments with one thing changed in them, at every place and in every way that is known. */
export function mutantArguments(
  given: JsonObject,
): readonly { readonly name: string; readonly arguments: JsonObject }[] {
  const mutants: { name: string; arguments: JsonObject }[] = []
  for (const path of pathsOf(given)) {
    const place = path.join("/")
    const value = valueAt(given, path)
    for (const [name, other] of mutantValues(value as JsonValue)) {
      mutants.push({ name: `${place}: ${name}`, arguments: changedAt(given, path, () => other) })
    }
    mutants.push({ name: `${place}: removed`, arguments: changedAt(given, path, () => undefined) })
    const key = path.at(-1)
    if (typeof key !== "string") continue
    for (const other of [
      `${key} `,
      key.toUpperCase(),
      `${key}\u200b`,
      key.replace(/[aeo]/, twin),
    ]) {
      if (other === key) continue
      mutants.push({ name: `${place}: renamed ${other}`, arguments: renamed(given, path, other) })
    }
  }
  for (const [name, extra] of [
    ["added: null", null],
    ["added: empty", ""],
    ["added: an object", {}],
    ["added: $from", { $from: 0 }],
  ] as const) {
    mutants.push({ name, arguments: { ...given, added: extra } })
  }
  const known = new Set([canonicalJson(given)])
  return mutants.filter((mutant) => {
    const text = canonicalJson(mutant.arguments)
    return !known.has(text) && known.add(text)
  })
}

function mutantValues(value: JsonValue): readonly (readonly [string, JsonValue])[] {
  const different: readonly (readonly [string, JsonValue])[] = [
    ["null", null],
    ["a list of it", [value]],
    ["an object of it", { value }],
  ]
  return [...typedMutants(value), ...different].filter(
    ([, other]) => JSON.stringify(other) !== JSON.stringify(value),
  )
}

function typedMutants(value: JsonValue): readonly (readonly [string, JsonValue])[] {
  if (typeof value === "number") {
    return [
      ["as text", String(value)],
      ["as exact text", value.toFixed(2)],
      ["more", value + 1],
      ["negative", -value - 1],
      ["ten times", value * 10 + 1],
      ["a little more", value === 0 ? Number.MIN_VALUE : value * (1 + 2 ** -20)],
    ]
  }
  if (typeof value === "boolean") {
    return [
      ["the other", !value],
      ["as text", String(value)],
      ["as a number", Number(value)],
    ]
  }
  if (typeof value === "string") {
    return [
      ["a space after it", `${value} `],
      ["a space before it", ` ${value}`],
      ["another space", value.replace(" ", "\u00a0")],
      ["a line break", `${value}\n`],
      ["upper case", value.toUpperCase()],
      ["decomposed", value.normalize("NFD")],
      ["full width", value.replace(/[A-Za-z0-9]/, wide)],
      ["a twin", value.replace(/[aeo]/, twin)],
      ["turned around", `\u202e${value}`],
      ["isolated", `\u2066${value}\u2069`],
      ["zero width", `${value.slice(0, 1)}\u200b${value.slice(1)}`],
      ["a soft hyphen", `${value}\u00ad`],
      ["a tag", `${value}\u{e0041}`],
      ["a variation", `${value}\ufe0f`],
      ["NUL", `${value}\0`],
      ["its end", `${value}0`],
      ["less", value.slice(0, -1)],
    ]
  }
  if (Array.isArray(value)) {
    return [
      ["in reverse", value.toReversed()],
      ["one less", value.slice(0, -1)],
      ["one more", [...value, null]],
      ["as an object", Object.fromEntries(value.map((item, index) => [String(index), item]))],
    ]
  }
  return []
}

type Path = readonly (string | number)[]

function pathsOf(value: JsonValue, above: Path = []): readonly Path[] {
  if (value === null || typeof value !== "object") return []
  const keys = Array.isArray(value) ? value.map((_, index) => index) : Object.keys(value)
  return keys.flatMap((key) => {
    const path = [...above, key]
    return [path, ...pathsOf(valueAt(value, [key]) as JsonValue, path)]
  })
}

function valueAt(value: JsonValue, path: Path): JsonValue | undefined {
  return path.reduce<JsonValue | undefined>(
    (at, key) => (at as Record<string | number, JsonValue> | undefined)?.[key],
    value,
  )
}

/** A copy with the value at a path replaced; one that becomes undefined is taken out. */
function changedAt(
  given: JsonObject,
  path: Path,
  change: (value: JsonValue) => JsonValue | undefined,
): JsonObject {
  const copy = structuredClone(given)
  const last = path.at(-1) ?? ""
  const above = valueAt(copy, path.slice(0, -1)) as Record<string | number, JsonValue>
  const changed = change(above[last] as JsonValue)
  if (changed !== undefined) above[last] = changed
  else if (Array.isArray(above)) above.splice(Number(last), 1)
  else delete above[last]
  return copy
}

function renamed(given: JsonObject, path: Path, name: string): JsonObject {
  const value = valueAt(given, path) as JsonValue
  const without = changedAt(given, path, () => undefined)
  const above = valueAt(without, path.slice(0, -1)) as Record<string, JsonValue>
  above[name] = value
  return without
}

function twin(letter: string): string {
  return { a: "а", e: "е", o: "о" }[letter] ?? letter
}

function wide(character: string): string {
  return String.fromCodePoint((character.codePointAt(0) ?? 0) + 0xfee0)
}

function flipped(hex: string): string {
  return hex.replace(/[0-9a-f](?=[^0-9a-f]*$)/, (digit) => (digit === "0" ? "1" : "0"))
}

function flag(
  { rule }: ApprovalBinding,
  name: "isDistinctFromRequester" | "allowsDelegation" | "allowsBreakGlass",
) {
  return { ...rule, [name]: !rule[name] }
}
