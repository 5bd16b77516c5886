import { create } from "@bufbuild/protobuf"
import { expect, it } from "vitest"
import {
  ExecuteToolResponseSchema,
  GetOutcomeResponseSchema,
  ListToolsResponseSchema,
} from "../../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { definition } from "../../../mesh/fixtures/fake-provider.ts"
import { redacted, withoutSecrets } from "./redaction.ts"
import { Secret } from "./secret.ts"

const token = "canary-7d1f2a"
const client = withoutSecrets(
  {
    listTools: async () =>
      create(ListToolsResponseSchema, {
        tools: [
          definition("look", {
            description: `Asks with Bearer ${token}.`,
            annotations: { [token]: [{ deep: `x${token}x` }] },
          }),
        ],
      }),
    executeTool: async ({ tool }) =>
      create(
        ExecuteToolResponseSchema,
        tool === "fail"
          ? {
              outcome: {
                case: "error",
                value: { reason: "no", message: token, metadata: { a: token } },
              },
            }
          : { outcome: { case: "result", value: { echo: ["Bearer", token], [token]: { n: 1 } } } },
      ),
    getOutcome: async () => create(GetOutcomeResponseSchema, { outcome: 1 }),
  },
  [new Secret(`Bearer ${token}`), new Secret("short")],
)

it("what a provider was shown is in nothing that it says", async () => {
  const said = [
    await client.listTools({}),
    await client.executeTool({ tool: "echo" }),
    await client.executeTool({ tool: "fail" }),
  ]
  expect(JSON.stringify(said)).not.toContain(token)
  expect(said[1]).toMatchObject({
    outcome: { value: { echo: ["Bearer", redacted], [redacted]: { n: 1 } } },
  })
})

it("what is as short as a word stays", async () => {
  const echo = withoutSecrets(
    {
      listTools: client.listTools,
      getOutcome: client.getOutcome,
      executeTool: async () =>
        create(ExecuteToolResponseSchema, { outcome: { case: "result", value: { a: "short" } } }),
    },
    [new Secret("short")],
  )
  expect(await echo.executeTool({})).toMatchObject({ outcome: { value: { a: "short" } } })
})

it("an answer that nests deeply is read to its end", async () => {
  let deep: object = { token }
  for (let level = 0; level < 50_000; level++) deep = { deep }
  const echo = withoutSecrets(
    {
      listTools: client.listTools,
      getOutcome: client.getOutcome,
      executeTool: async () =>
        create(ExecuteToolResponseSchema, { outcome: { case: "result", value: deep as never } }),
    },
    [new Secret(token)],
  )
  let at = (await echo.executeTool({})).outcome.value as Record<string, unknown>
  while ("deep" in at) at = at.deep as Record<string, unknown>
  expect(at).toEqual({ token: redacted })
})
