/**
 * Takes what a provider was shown out of what it says: nobody reads a credential in a result, in an
 * error, or in the description of a tool.
 */
import type { ProviderClient } from "../registry/registry.ts"
import type { Secret } from "./secret.ts"

/** What stands in the place of a credential. */
export const redacted = "[redacted]"
/** A shorter text occurs by chance. */
const minLength = 8

/** The client with every answer free of the secrets. */
export function withoutSecrets(client: ProviderClient, secrets: readonly Secret[]): ProviderClient {
  const needles = needlesOf(secrets)
  if (needles.length === 0) return client
  const clean = async <T>(answer: Promise<T>): Promise<T> => {
    const message = await answer
    redact(message, needles)
    return message
  }
  return {
    listTools: (request, options) => clean(client.listTools(request, options)),
    executeTool: (request, options) => clean(client.executeTool(request, options)),
    getOutcome: (request, options) => clean(client.getOutcome(request, options)),
  }
}

/** Each secret, and what follows the scheme in one such as `Bearer …`; the longest first. */
function needlesOf(secrets: readonly Secret[]): readonly string[] {
  const texts = secrets.flatMap((secret) => {
    const value = secret.reveal()
    const [, credential = ""] = /^\S+ +(\S.*)$/.exec(value) ?? []
    return [value, credential]
  })
  const found = new Set(texts.filter(({ length }) => length >= minLength))
  return [...found].sort((one, other) => other.length - one.length)
}

/** In place, and without recursion: how deep an answer nests is its provider's to say. */
function redact(answer: unknown, needles: readonly string[]): void {
  const open: unknown[] = [answer]
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    if (typeof at !== "object" || at === null || ArrayBuffer.isView(at)) continue
    const members = at as Record<string, unknown>
    for (const [name, member] of Object.entries(members)) {
      const key = Array.isArray(at) || name === "__proto__" ? name : cleaned(name, needles)
      const value = typeof member === "string" ? cleaned(member, needles) : member
      if (key !== name) delete members[name]
      if (key !== name || value !== member) members[key] = value
      if (typeof value === "object" && value !== null) open.push(value)
    }
  }
}

function cleaned(text: string, needles: readonly string[]): string {
  return needles.reduce((rest, needle) => rest.replaceAll(needle, redacted), text)
}
