/** Who asks: the token that Runwarden's tools service signs for each call, checked before any work. */
import { createPublicKey, type KeyObject } from "node:crypto"
import { type Metadata, status } from "@grpc/grpc-js"
import { jwtVerify } from "jose"
import { Refusal } from "./rpc.ts"

/** Workspace and actor for whom a call is made; the workspace is empty for ListTools. */
export interface Caller {
  readonly workspaceId: string
  readonly actorId: string
}

/** The key of the tools service, out of `RUNWARDEN_TRUSTED_KEYS`: the base64 of its SPKI DER. */
export function readToolsKey(trustedKeys: string | undefined): KeyObject {
  const encoded: unknown = JSON.parse(trustedKeys || "{}").tools
  if (typeof encoded !== "string") {
    throw new Error(`Set it first: export "$(npm start --silent -- --provider-env)"`)
  }
  return createPublicKey({ key: Buffer.from(encoded, "base64"), format: "der", type: "spki" })
}

/** Checks the token of one call; `audience` is the name under which the mesh knows us. */
export async function verifyToken(
  metadata: Metadata,
  key: KeyObject,
  audience: string,
): Promise<Caller> {
  try {
    const token = String(metadata.get("runwarden-identity")[0])
    const { payload } = await jwtVerify(token, key, {
      algorithms: ["EdDSA"],
      typ: "runwarden-hop+jwt",
      issuer: "tools",
      audience,
      maxTokenAge: 60,
      clockTolerance: 2,
      requiredClaims: ["exp", "sub", "ws"],
    })
    return { workspaceId: String(payload.ws), actorId: String(payload.sub) }
  } catch {
    throw new Refusal(status.UNAUTHENTICATED, "A valid token of the tools service is required.")
  }
}
