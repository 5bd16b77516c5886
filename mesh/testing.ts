/** What tests stand on: runtimes that trust each other, real databases, clients, and waiting. */
import type { DescService } from "@bufbuild/protobuf"
import type { Client } from "@connectrpc/connect"
import type { SpanExporter } from "@opentelemetry/sdk-trace"
import { pino } from "pino"
import { createMeshClient } from "./client.ts"
import { createSigner, createVerifier } from "./hop-tokens.ts"
import type { ServiceName } from "./identity.ts"
import { generateMeshKeys, type MeshKeys } from "./keys.ts"
import { goOn } from "./kill-points.ts"
import { createLocalTransport } from "./local-transport.ts"
import type { Route, Runtime } from "./service.ts"
import { createTracing } from "./tracing.ts"

export { testDatabase } from "./test-database.ts"

/** The keys that all test runtimes of this process share. */
export const testKeys: MeshKeys = generateMeshKeys()

/** A runtime whose peers in this process trust it. Logs errors only. */
export function testRuntime(name: ServiceName, exporter?: SpanExporter): Runtime {
  const privateKey = testKeys.private.get(name)
  if (privateKey === undefined) throw new Error(`no key for ${name}`)
  return {
    name,
    signer: createSigner(name, privateKey),
    verifier: createVerifier(name, testKeys.trusted),
    tracer: createTracing(name, exporter).tracer,
    log: pino({ name, level: "fatal" }),
    reached: goOn,
  }
}

/** A client of a service in this process, calling as another service, by default the gateway. */
export function testClient<S extends DescService>(
  service: S,
  target: { readonly routes: readonly Route[]; readonly runtime: Runtime },
  as: ServiceName = "gateway",
): Client<S> {
  return createMeshClient(service, createLocalTransport(target, testRuntime(as)))
}

/**
 * Waits until the condition gives something truthy, and returns that. Fails after the time with the
 * condition's own text, so that a test says what it waited for.
 */
export async function until<T>(
  condition: () => T | Promise<T>,
  options: { readonly timeoutMs?: number } = {},
): Promise<Exclude<T, undefined | null | false | 0 | "">> {
  const timeoutMs = options.timeoutMs ?? 10_000
  const end = performance.now() + timeoutMs
  for (;;) {
    const value = await condition()
    if (value) return value as Exclude<T, undefined | null | false | 0 | "">
    if (performance.now() > end) throw new Error(`not true after ${timeoutMs} ms: ${condition}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
