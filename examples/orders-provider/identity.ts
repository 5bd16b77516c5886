/** Who asks: the token that Runwarden's tools service signs for each call, checked before any work. */
import { createPublicKey, type KeyObject } from "node:crypto"
import { status } from "@grpc/grpc-js"
import { jwtVerify } from "jose"
import { Refusal } from "./rpc.ts"

/** The key of the tools service, out of `RUNWARDEN_TRUSTED_KEYS`: the base64 of its SPKI DER. */
export function readToolsKey(trustedKeys: string | undefined): KeyObject {
  const encoded: unknown = JSON.parse(trustedKeys || "{}").tools
  if (typeof encoded !== "string") throw new Error("RUNWARDEN_TRUSTED_KEYS has no key of tools")
  return createPublicKey({ key: Buffer.from(encoded, "base64"), format: "der", type: "spki" })
}

/** The workspace for which the tools service calls `audience`; empty for ListTools. */
export async function verifyToken(token: string, key: KeyObject, audience: string) {
  try {
    const { payload } = await jwtVerify(token, key, {
      algorithms: ["EdDSA"],
      typ: "runwarden-hop+jwt",
      issuer: "tools",
      audience,
      maxTokenAge: 60,
      clockTolerance: 2,
      requiredClaims: ["exp", "sub", "ws"],
    })
    return String(payload.ws)
  } catch {
    throw new Refusal(status.UNAUTHENTICATED, "A valid token of the tools service is required.")
  }
}
