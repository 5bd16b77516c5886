/** What to tell a person about a call that failed: what, why, and what to do. */
import { Code, ConnectError } from "@connectrpc/connect"
import { BadRequestSchema, ErrorInfoSchema } from "../../gen/google/rpc/error_details_pb.ts"

const advice: Readonly<Record<string, string>> = {
  UNAUTHENTICATED: "Set RUNWARDEN_API_KEY to a valid key; `npm start` prints some.",
  ROLE_TOO_LOW: "Use the key of somebody with the role that it needs.",
  APPROVER_NOT_ALLOWED: "Have somebody else confirm it, such as an approver who did not ask.",
  UNKNOWN_TOOL: "See which there are: tools",
  AMBIGUOUS_TOOL: "Write the full name, provider/tool: tools",
  TOOL_ARGUMENTS_INVALID: "Correct the arguments; the tool's input schema says what fits.",
  INVALID_REQUEST: "Correct the fields that are named.",
  NOT_FOUND: "See which runs there are: runs",
  APPROVAL_NOT_PENDING: "Look how the run stands: watch",
}

/** Reads the google.rpc details that every error of Runwarden carries. */
export function describe(error: unknown, url: string): string {
  if (!(error instanceof ConnectError)) return error instanceof Error ? error.message : `${error}`
  const [info] = error.findDetails(ErrorInfoSchema)
  if (info === undefined) {
    return error.code === Code.Unavailable
      ? `Nothing answers at ${url}. Start a mesh with \`npm start\`, or set RUNWARDEN_URL.`
      : error.message
  }
  const fields = error.findDetails(BadRequestSchema).flatMap((bad) => bad.fieldViolations)
  return [
    `${info.reason}: ${error.rawMessage}`,
    ...fields.map(({ field, description }) => `  ${field}: ${description}`),
    ...(advice[info.reason] === undefined ? [] : [advice[info.reason]]),
  ].join("\n")
}
