// Every reason has one code, one message without holes, and the same wire form wherever it is made.
import { fromBinary, toBinary } from "@bufbuild/protobuf"
import { Code, ConnectError } from "@connectrpc/connect"
import { describe, expect, test } from "vitest"
import {
  BadRequestSchema,
  ErrorInfoSchema,
  RetryInfoSchema,
} from "../gen/google/rpc/error_details_pb.ts"
import { ErrorReasonSchema } from "../gen/runwarden/errors/v1/error_reason_pb.ts"
import { PolicyDenialSchema } from "../gen/runwarden/errors/v1/policy_denial_pb.ts"
import {
  illegalTransition,
  type Reason,
  RunwardenError,
  reasonOf,
  toConnectError,
} from "./errors.ts"

const documented = ErrorReasonSchema.values
  .map((value) => value.name.replace("ERROR_REASON_", ""))
  .filter((name) => name !== "UNSPECIFIED") as Reason[]

describe.each(documented)("%s", (reason) => {
  test("carries exactly one ErrorInfo and a reason that peers read", () => {
    const error = toConnectError(new RunwardenError(reason))
    const infos = error.findDetails(ErrorInfoSchema)
    expect(infos).toHaveLength(1)
    expect(infos[0]).toMatchObject({ reason, domain: "runwarden" })
    expect(reasonOf(error)).toBe(reason)
  })
})

test("the message is filled from the metadata, all of which is sent", () => {
  const error = toConnectError(illegalTransition("project", "archived", "active", []))
  expect(error.code).toBe(Code.FailedPrecondition)
  expect(error.rawMessage).toBe(
    "The project is archived: active is not allowed from there (allowed: ).",
  )
  expect(error.findDetails(ErrorInfoSchema)[0]?.metadata).toEqual({
    resource: "project",
    current: "archived",
    requested: "active",
    allowed: "",
  })
})

test("violations, retry time and a policy's findings travel as details", () => {
  const error = toConnectError(
    new RunwardenError(
      "POLICY_DENIED",
      { decision_id: "d", policy_version: "default@1" },
      {
        violations: [{ field: "plan.steps[0]", description: "too much" }],
        retryAfterMs: 1500,
        policyDenial: { verdict: "blocked", matchedRules: ["secrets"] },
      },
    ),
  )
  expect(error.findDetails(BadRequestSchema)[0]?.fieldViolations[0]).toMatchObject({
    field: "plan.steps[0]",
    description: "too much",
  })
  expect(error.findDetails(RetryInfoSchema)[0]?.retryDelay).toMatchObject({
    seconds: 1n,
    nanos: 500_000_000,
  })
  const denial = error.findDetails(PolicyDenialSchema)[0]
  if (denial === undefined) throw new Error("no denial")
  expect(fromBinary(PolicyDenialSchema, toBinary(PolicyDenialSchema, denial)).matchedRules).toEqual(
    ["secrets"],
  )
})

test("what is not ours says nothing of itself", () => {
  const error = toConnectError(new Error("relation secrets.keys does not exist"))
  expect(error.code).toBe(Code.Internal)
  expect(error.rawMessage).toBe("Internal error.")
  expect(error.details).toHaveLength(1)
  expect(error.findDetails(ErrorInfoSchema)[0]?.metadata).toEqual({})
})

test("a plain status gets the reason of its code, and its text stays behind", () => {
  const error = toConnectError(
    new ConnectError("cannot decode message foo.Bar", Code.InvalidArgument),
  )
  expect(reasonOf(error)).toBe("MALFORMED_REQUEST")
  expect(error.rawMessage).not.toContain("foo.Bar")
})

test("a peer's error passes through as it is", () => {
  const peer = toConnectError(new RunwardenError("NOT_FOUND", { resource: "run", id: "1" }))
  expect(toConnectError(peer)).toBe(peer)
})
