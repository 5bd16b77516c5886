/** What a person is shown for the reasons of errors; see outcomes.ts. */
import type { ErrorReason } from "../gen/runwarden/errors/v1/error_reason_pb.ts"
import type { Outcome } from "./outcomes.ts"

export const errorOutcomes = {
  UNAUTHENTICATED: failure(
    "not signed in",
    "The API key is missing, unknown, revoked or expired.",
    "Give a valid API key.",
  ),
  NOT_A_MEMBER: failure(
    "no access",
    "The key's owner is not a member of this workspace, or there is no such workspace.",
    "Check the workspace's id, or ask one of its admins.",
  ),
  ROLE_TOO_LOW: failure(
    "role too low",
    "The role in this workspace does not permit it.",
    "Ask somebody with the role that it needs.",
  ),
  CALLER_NOT_ALLOWED: failure(
    "not for this caller",
    "This is for services of the mesh only.",
    "Check how the mesh is deployed.",
  ),
  WORKSPACE_MISMATCH: failure(
    "wrong workspace",
    "The workspace of the request is not the one of the identity.",
    "Name the workspace that the key belongs to.",
  ),
  DIGEST_MISMATCH: failure(
    "not the call that was permitted",
    "What was to run is not what was judged, so it did not run.",
    "Start the run again.",
  ),
  APPROVER_NOT_ALLOWED: failure(
    "not yours to answer",
    "The approval's rule does not let this person give this answer, or not any more.",
    "Look at who may answer, and have somebody else do it.",
  ),
  POLICY_DENIED: failure(
    "denied by policy",
    "A policy blocked it, and no approval can allow it.",
    "Change the request, or have an admin change the policy.",
  ),
  INVALID_REQUEST: failure(
    "invalid input",
    "A field breaks its rule; nothing was done.",
    "Correct the fields that are named.",
  ),
  MALFORMED_REQUEST: failure(
    "unreadable request",
    "The request could not be read; nothing was done.",
    "Correct what is named.",
  ),
  INVALID_PAGE_TOKEN: failure(
    "invalid page",
    "The page token does not belong to this list with these filters.",
    "Begin again at the first page.",
  ),
  INVALID_PLAN: failure(
    "invalid plan",
    "The plan cannot be run; nothing was stored.",
    "Correct the step that is named.",
  ),
  UNKNOWN_TOOL: failure(
    "unknown tool",
    "No provider offers this tool, or not in this version.",
    "Look at the list of tools, and correct the name.",
  ),
  AMBIGUOUS_TOOL: failure(
    "ambiguous tool",
    "More than one provider offers a tool of this name.",
    "Write the full name, provider/tool.",
  ),
  TOOL_ARGUMENTS_INVALID: failure(
    "invalid arguments",
    "The arguments do not fit the tool; nothing was done.",
    "Correct the fields that are named; the tool's input schema says what fits.",
  ),
  INVALID_POLICY: failure(
    "invalid policy",
    "The policy cannot be used; nothing was stored.",
    "Correct the rule that is named.",
  ),
  UNSUPPORTED_MEDIA_TYPE: failure(
    "unsupported type",
    "Documents of this type cannot be ingested.",
    "Convert it to Markdown, text or HTML.",
  ),
  NOT_FOUND: failure(
    "not found",
    "There is no such thing in this workspace.",
    "Check the id and the workspace.",
  ),
  METHOD_NOT_FOUND: failure(
    "not served here",
    "The server does not know this call.",
    "Check the address, and that client and server are of versions that fit.",
  ),
  ALREADY_EXISTS: failure(
    "exists already",
    "There is one with this id already; nothing was changed.",
    "Use the one that is there, or choose another id.",
  ),
  REQUEST_ID_CONFLICT: failure(
    "request id used before",
    "This request id belongs to another request; nothing was done.",
    "Send it again with a new request id.",
  ),
  IDEMPOTENCY_CONFLICT: failure(
    "key used before",
    "The key of this call was used with other arguments; nothing was sent.",
    "Start another run.",
  ),
  IDEMPOTENCY_IN_PROGRESS: attention(
    "still under way",
    "The same call is in flight.",
    "Wait a moment, and ask again.",
  ),
  ETAG_MISMATCH: attention(
    "changed meanwhile",
    "Somebody changed it since it was read; nothing was changed.",
    "Read it again, and decide anew.",
  ),
  LEASE_LOST: attention(
    "taken over",
    "Another replica has taken the run over.",
    "Read the run again.",
  ),
  ILLEGAL_TRANSITION: failure(
    "not possible now",
    "Its state does not allow this step; nothing was changed.",
    "Look at its state, and choose a step that is allowed from there.",
  ),
  APPROVAL_NOT_PENDING: failure(
    "answered already",
    "The approval was answered, has expired or was withdrawn; this answer does not count.",
    "Look at the approval and its run.",
  ),
  APPROVAL_CONTENT_CHANGED: attention(
    "changed meanwhile",
    "What would run is not what was shown; the answer does not count.",
    "Look at the approval again, and decide anew.",
  ),
  LAST_ADMIN: failure(
    "last admin",
    "The workspace would be left without an admin; nothing was changed.",
    "Make somebody else an admin first.",
  ),
  THREAD_BUSY: attention(
    "thread busy",
    "Another run of the thread has not ended yet; nothing was started.",
    "Wait for that run or cancel it, or let the new one wait for its turn.",
  ),
  CREDENTIALS_UNAVAILABLE: failure(
    "credentials unavailable",
    "The provider's credentials cannot be kept or read; nothing was sent without them.",
    "Whoever runs the deployment looks at TOOLS_CREDENTIAL_KEYS; then set them anew if need be.",
  ),
  PROVIDER_REMOVED: failure(
    "provider removed",
    "The workspace has removed the tool's provider; the call was not made.",
    "Start again with another tool, or add the provider again.",
  ),
  REQUEST_TOO_LARGE: failure(
    "too large",
    "The request is larger than this call takes; nothing was done.",
    "Send less at once.",
  ),
  LIMIT_EXCEEDED: attention(
    "limit reached",
    "A limit of the workspace or the service is reached; nothing was done.",
    "Wait, or have the limit raised.",
  ),
  DEPENDENCY_UNAVAILABLE: attention(
    "out of reach",
    "Something that is needed could not be reached; nothing was done, or it is safe to repeat.",
    "Try again in a moment.",
  ),
  SHUTTING_DOWN: attention(
    "stopping",
    "The service is stopping and takes no new work.",
    "Try again in a moment.",
  ),
  DEADLINE_EXCEEDED: attention(
    "no answer in time",
    "The answer did not come in time; it may have been done all the same.",
    "Read the state before you repeat it.",
  ),
  CANCELLED: attention(
    "given up",
    "The call was given up before it was answered; it may have been done all the same.",
    "Read the state before you repeat it.",
  ),
  INTERNAL: failure(
    "internal error",
    "A fault of the service: treat it as not done.",
    "Read the state before you repeat it; the operator finds the cause by the trace id.",
  ),
} as const satisfies Readonly<Record<Exclude<keyof typeof ErrorReason, "UNSPECIFIED">, Outcome>>

function failure(label: string, explanation: string, next: string): Outcome {
  return { label, tone: "failure", explanation, next }
}

function attention(label: string, explanation: string, next: string): Outcome {
  return { label, tone: "attention", explanation, next }
}
