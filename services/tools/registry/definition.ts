/**
 * What the registry takes from a provider: a definition whose name and texts show what they are,
 * whose schemas compile, and whose digest stands for all of it.
 */
import { create, type JsonValue, toJson } from "@bufbuild/protobuf"
import { durationMs } from "@bufbuild/protobuf/wkt"
import {
  Effect,
  RiskClass,
  type ToolDefinition,
  ToolDefinitionSchema,
} from "../../../gen/runwarden/tools/v1/tool_pb.ts"
import { canonicalJson, digestOf } from "../../../mesh/canonical.ts"
import { toLatin } from "../../../mesh/look-alikes.ts"
import { faultIn } from "../schema/checker.ts"
import { normaliseSchema } from "../schema/foreign-schema.ts"
import { faultOfRetry } from "./retry-policy.ts"

/** A definition that may be stored. */
export interface AcceptedDefinition {
  readonly kind: "accepted"
  readonly definition: ToolDefinition
  readonly digest: string
}

/** A definition that may not, and why. */
export interface RefusedDefinition {
  readonly kind: "refused"
  readonly name: string
  readonly version: string
  readonly message: string
  readonly digest: string
}

const namePattern = /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/
const versionPattern = /^[A-Za-z0-9._+-]+$/
const maxNameLength = 128
const maxVersionLength = 64
const maxTitleLength = 200
const maxDescriptionLength = 8_192
const longestTimeoutMs = 86_400_000
/** More than this of anything that a provider counts is a fault of the provider's; sums stay exact numbers. */
export const maxAmount = 10n ** 12n

/** Controls, invisible and unassigned characters, private use, and separators that break lines. */
const hiddenCharacters = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]|[\p{Cs}]/u
const lineBreaksAndTabs = /[\n\t]/g
/** Variation selectors and the letters that show nothing: none of them is in the classes above. */
const blankCharacters =
  /\u034f|\u115f|\u1160|\u17b4|\u17b5|\u3164|[\ufe00-\ufe0f]|\uffa0|[\u{e0100}-\u{e01ef}]/u
const hidingCharacters = new RegExp(
  `(?![\\n\\t])(?:${hiddenCharacters.source}|${blankCharacters.source})`,
  "gu",
)
const latin = /\p{Script=Latin}/u
const otherScripts =
  /\p{Script=Cyrillic}|\p{Script=Greek}|\p{Script=Armenian}|\p{Script=Cherokee}/gu

/** Checks a definition as a provider sent it, and fills in risk class and effect. */
export function readDefinition(sent: ToolDefinition): AcceptedDefinition | RefusedDefinition {
  const definition = create(ToolDefinitionSchema, {
    ...sent,
    riskClass: declaredOr(RiskClass.HIGH, sent.riskClass, [RiskClass.LOW, RiskClass.MEDIUM]),
    effect: declaredOr(Effect.UNSAFE, sent.effect, [Effect.READ, Effect.KEYED]),
    schemaChanges: [],
  })
  try {
    normaliseSchemas(definition)
    const message = faultOf(sent, definition)
    if (message !== undefined) return refused(definition, message)
    return { kind: "accepted", definition, digest: digestOfDefinition(definition) }
  } catch (error) {
    return refused(definition, `The definition cannot be read: ${String(error).slice(0, 200)}.`)
  }
}

/** SHA-256 (hex) over the RFC 8785 canonical JSON of a definition. */
export function digestOfDefinition(definition: ToolDefinition): string {
  return digestOf(toJson(ToolDefinitionSchema, definition))
}

/** Text with everything but printable ASCII escaped, so that it shows what it is. */
export function escaped(text: string, maxLength: number): string {
  return text
    .replaceAll(/[^\x20-\x7e]/gu, (character) => {
      return `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`
    })
    .slice(0, maxLength)
}

/** Text without what does not show: invisible characters, controls, private use. */
export function visibleText(text: string): string {
  return text.replaceAll(hidingCharacters, "")
}

function declaredOr<Value extends number>(
  fallback: Value,
  declared: number,
  allowed: readonly Value[],
): Value {
  return allowed.find((value) => value === declared) ?? fallback
}

/** Writes its schemas as JSON Schema, and beside them what was changed. */
function normaliseSchemas(definition: ToolDefinition): void {
  const { inputSchema, outputSchema, schemaChanges } = definition
  if (inputSchema !== undefined) {
    const { schema, changes } = normaliseSchema(inputSchema)
    definition.inputSchema = schema
    schemaChanges.push(...changes.map((change) => `input_schema${change}`))
  }
  if (outputSchema !== undefined) {
    const { schema, changes } = normaliseSchema(outputSchema)
    definition.outputSchema = schema
    schemaChanges.push(...changes.map((change) => `output_schema${change}`))
  }
}

function faultOf(sent: ToolDefinition, normalised: ToolDefinition): string | undefined {
  const { name, version, title, description, riskClass, effect } = sent
  const { inputSchema, outputSchema } = normalised
  if (name.length > maxNameLength || !namePattern.test(name)) {
    return "The name is not of ASCII letters, digits, underscores and hyphens, joined by dots."
  }
  if (version.length > maxVersionLength || !versionPattern.test(version)) {
    return "The version is not of letters, digits, dots, underscores, plus and minus signs."
  }
  if (title.length > maxTitleLength) return `The title is longer than ${maxTitleLength} characters.`
  if (description.length > maxDescriptionLength) {
    return `The description is longer than ${maxDescriptionLength} characters.`
  }
  if (!(riskClass in knownRiskClasses)) return "The risk class is not a known one."
  if (!(effect in knownEffects)) return "The effect is not a known one."
  if (inputSchema === undefined) return "The input schema is missing."
  const hidden = hiddenTextIn(toJson(ToolDefinitionSchema, sent), "")
  if (hidden !== undefined) return hidden
  canonicalJson(inputSchema)
  const inputFault = faultIn(inputSchema)
  if (inputFault !== undefined) return `Input schema: ${inputFault}`
  const outputFault = outputSchema === undefined ? undefined : faultIn(outputSchema)
  if (outputFault !== undefined) return `Output schema: ${outputFault}`
  const retryFault = faultOfRetry(sent)
  if (retryFault !== undefined) return `Retry policy: ${retryFault}`
  return faultOfBounds(sent)
}

/** What is wrong with the time and the amounts that a call is said to take at most. */
function faultOfBounds({ defaultTimeout, maxUsage }: ToolDefinition): string | undefined {
  const timeoutMs = defaultTimeout === undefined ? 1 : durationMs(defaultTimeout)
  if (!(timeoutMs >= 1 && timeoutMs <= longestTimeoutMs)) {
    return `The default timeout is not from 1 to ${longestTimeoutMs} milliseconds.`
  }
  if (maxUsage === undefined) return undefined
  const { inputTokens, outputTokens, costMicros } = maxUsage
  if ([inputTokens, outputTokens, costMicros].every((amount) => amount <= maxAmount)) {
    return undefined
  }
  return `The most that a call uses up is more than ${maxAmount}.`
}

const knownRiskClasses: Readonly<Record<number, true>> = {
  [RiskClass.UNSPECIFIED]: true,
  [RiskClass.LOW]: true,
  [RiskClass.MEDIUM]: true,
  [RiskClass.HIGH]: true,
}
const knownEffects: Readonly<Record<number, true>> = {
  [Effect.UNSPECIFIED]: true,
  [Effect.READ]: true,
  [Effect.KEYED]: true,
  [Effect.UNSAFE]: true,
}

/** The first place where a text hides something or pretends to be another, as a sentence. */
function hiddenTextIn(value: JsonValue, path: string): string | undefined {
  if (typeof value === "string") return faultOfText(value, path)
  if (typeof value !== "object" || value === null) return undefined
  for (const [key, member] of Object.entries(value)) {
    const keyFault = faultOfText(key, `${path}/${escaped(key, 100)}`)
    const fault = keyFault ?? hiddenTextIn(member, `${path}/${key}`)
    if (fault !== undefined) return fault
  }
  return undefined
}

function faultOfText(text: string, path: string): string | undefined {
  const visible = text.replaceAll(lineBreaksAndTabs, " ")
  const hidden = hiddenCharacters.exec(visible) ?? blankCharacters.exec(visible)
  if (hidden !== null) {
    return `${path} holds an invisible or control character: ${escaped(hidden[0], 20)}.`
  }
  const mixed = visible
    .split(/[^\p{L}\p{M}\p{N}]+/u)
    .find((word) => latin.test(word) && hasLookAlike(word))
  if (mixed === undefined) return undefined
  return `${path} mixes Latin letters with others that look like them: ${escaped(mixed, 100)}.`
}

/** A letter of another script that is drawn like a Latin one; an ε in a formula is none. */
function hasLookAlike(word: string): boolean {
  return [...word.matchAll(otherScripts)].some(([letter]) => toLatin(letter) !== letter)
}

function refused(definition: ToolDefinition, message: string): RefusedDefinition {
  return {
    kind: "refused",
    name: escaped(definition.name, maxNameLength),
    version: escaped(definition.version, maxVersionLength),
    message: escaped(message, 500),
    digest: digestOrNone(definition),
  }
}

function digestOrNone(definition: ToolDefinition): string {
  try {
    return digestOfDefinition(definition)
  } catch {
    return ""
  }
}
