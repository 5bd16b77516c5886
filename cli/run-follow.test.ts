import { create } from "@bufbuild/protobuf"
import { expect, test } from "vitest"
import { RunEventSchema } from "../gen/runwarden/orchestrator/v1/run_event_pb.ts"
import { RunwardenError, toConnectError } from "../mesh/errors.ts"
import { followRun } from "./run-follow.ts"
import type { Session } from "./session.ts"

type Script = readonly (number | Error)[]

/** A session whose streams send these sequences, or fail, one script after the other. */
function sessionOf(scripts: readonly Script[], after: bigint[] = []): Session {
  const streams = scripts.values()
  async function* watchRun({ afterSequence }: { readonly afterSequence: bigint }) {
    after.push(afterSequence)
    for (const one of streams.next().value ?? []) {
      if (one instanceof Error) throw one
      yield { event: create(RunEventSchema, { sequence: BigInt(one) }) }
    }
  }
  return {
    signal: new AbortController().signal,
    options: {},
    target: { url: "http://127.0.0.1:1" },
    workspaceId: async () => "w",
    client: () => ({ watchRun }),
  } as never
}

async function sequences(session: Session): Promise<number[]> {
  const found: number[] = []
  for await (const { sequence } of followRun(session, "r")) found.push(Number(sequence))
  return found
}

const away = toConnectError(new RunwardenError("SHUTTING_DOWN", { service: "orchestrator" }))
const cut = Object.assign(new Error("cut"), { code: "ECONNRESET" })

test("a lost connection is taken up where it ended, and no event comes twice", async () => {
  const after: bigint[] = []
  const session = sessionOf([[1, 2, away], [2, 3, cut], [4]], after)
  expect(await sequences(session)).toEqual([1, 2, 3, 4])
  expect(after).toEqual([0n, 2n, 3n])
})

test("what does not come back ends it", async () => {
  const refused = toConnectError(new RunwardenError("NOT_FOUND", { resource: "run", id: "r" }))
  await expect(sequences(sessionOf([[1, refused]]))).rejects.toBe(refused)
})
