import { readdirSync, readFileSync } from "node:fs"
import { fromJsonString } from "@bufbuild/protobuf"
import { createValidator } from "@bufbuild/protovalidate"
import {
  type PolicyVersion,
  PolicyVersionSchema,
} from "../../gen/runwarden/moderation/v1/policy_pb.ts"
import { type Classifiers, compilePolicyNow, type Policy } from "./policy.ts"
import { digestOfRules, toRules } from "./rule-message.ts"

/** A version that ships with the service, with its compiled form. */
export interface ShippedPolicy {
  readonly message: PolicyVersion
  readonly policy: Policy
}

/** The versions of `default`, oldest first; the last one judges where none was activated. */
export type ShippedPolicies = readonly [ShippedPolicy, ...ShippedPolicy[]]

/** The folder of the policies that ship with the service. */
export const shippedPolicies = new URL("./policies/", import.meta.url)

/**
 * Reads and compiles every shipped policy. Throws where one is broken, so that a service with a
 * broken default does not start rather than judge by something else.
 */
export function readShippedPolicies(
  classifiers: Classifiers,
  folder: URL = shippedPolicies,
): ShippedPolicies {
  const shipped = readdirSync(folder)
    .filter((file) => file.endsWith(".json"))
    .map((file) => readPolicy(readFileSync(new URL(file, folder), "utf8"), classifiers))
    .sort((a, b) => a.message.version - b.message.version)
  const [oldest, ...newer] = shipped
  if (oldest === undefined) throw new Error("no default policy ships with the service")
  const names = new Set(shipped.map(({ message }) => message.policyVersion))
  if (names.size !== shipped.length) throw new Error("two default policies have the same version")
  return [oldest, ...newer]
}

function readPolicy(text: string, classifiers: Classifiers): ShippedPolicy {
  const message = fromJsonString(PolicyVersionSchema, text)
  const checked = createValidator().validate(PolicyVersionSchema, message)
  if (checked.kind !== "valid") throw checked.error
  if (message.name !== "default" || message.version === 0) {
    throw new Error("a shipped policy is named default and has a version from 1")
  }
  message.policyVersion = `${message.name}@${message.version}`
  message.digest = digestOfRules(message.rules)
  const policy = compilePolicyNow(message.policyVersion, toRules(message.rules), classifiers)
  return { message, policy }
}
