/** What a person is shown for tool calls; see outcomes.ts. */
import type { ToolCallState } from "../gen/runwarden/orchestrator/v1/tool_call_pb.ts"
import type { Outcome, StateOutcomes } from "./outcomes.ts"

type Named = Readonly<Record<Exclude<keyof typeof ToolCallState, "UNSPECIFIED">, StateOutcomes>>

/** The tools service refused before anything was sent; by the error's reason in lower case. */
const refused = (why: string): Partial<Outcome> => ({
  label: "refused",
  explanation: `The tool was not called: ${why}`,
})

export const callOutcomes = {
  PROPOSED: {
    outcome: {
      label: "planned",
      tone: "neutral",
      explanation: "The call is planned and was not looked at yet.",
    },
    reasons: {},
  },
  MODERATING: {
    outcome: {
      label: "being checked",
      tone: "progress",
      explanation: "Its final arguments are checked and judged.",
    },
    reasons: {},
  },
  AWAITING_APPROVAL: {
    outcome: {
      label: "needs confirmation",
      tone: "attention",
      explanation: "It runs only if a person confirms it; no answer in time is a no.",
      next: "Look at the approval, and confirm or reject it.",
    },
    reasons: { approval_required: {} },
  },
  READY: {
    outcome: { label: "ready", tone: "progress", explanation: "It may be executed, and will be." },
    reasons: {},
  },
  EXECUTING: {
    outcome: {
      label: "executing",
      tone: "progress",
      explanation: "It was sent to the tool, or is about to be.",
    },
    reasons: {},
  },
  SUCCEEDED: {
    outcome: {
      label: "succeeded",
      tone: "success",
      explanation: "The tool answered with a result.",
    },
    reasons: {
      result_withheld: {
        label: "done, result withheld",
        tone: "attention",
        explanation: "The call took effect, but moderation blocked its result, which is not shown.",
      },
    },
  },
  FAILED: {
    outcome: {
      label: "failed",
      tone: "failure",
      explanation: "The tool answered with an error, or could not be reached.",
      next: "Read the error; start another run once its cause is gone.",
    },
    reasons: {
      tool_failed: { explanation: "The tool answered with an error." },
      result_too_large: {
        label: "result too large",
        explanation:
          "It was carried out, but its result is larger than is taken, and is not there.",
        next: "Look what the tool did, and have it answer with less.",
      },
      tool_unavailable: {
        label: "tool unavailable",
        explanation:
          "The tool could not be reached, or did not answer. It has not run, unless its error says applied: unknown.",
        next: "Start another run once the tool is back; where it may have run, look first what it did.",
      },
      cancelled: {
        label: "stopped",
        explanation:
          "Its run was cancelled while it executed. It has not taken effect, unless its error says applied: unknown.",
      },
      deadline_exceeded: {
        label: "out of time",
        explanation:
          "Its time or the run's ran out while it executed. It has not taken effect, unless its error says applied: unknown.",
      },
      unknown_tool: refused("no provider offers it any more."),
      ambiguous_tool: refused("more than one provider offers a tool of this name."),
      tool_arguments_invalid: refused("the arguments do not fit its schema."),
      digest_mismatch: refused("the arguments are not those that were judged."),
      idempotency_conflict: refused("its key was used before with other arguments."),
      invalid_request: refused("the request breaks a rule."),
      malformed_request: refused("the request could not be read."),
      request_too_large: refused("the arguments are too large."),
      not_found: refused("what it names is not there."),
      caller_not_allowed: refused("the mesh is not set up to call it."),
      workspace_mismatch: refused("it belongs to another workspace."),
    },
  },
  OUTCOME_UNKNOWN: {
    outcome: {
      label: "outcome unknown",
      tone: "attention",
      explanation: "It may or may not have taken effect: treat it as neither done nor undone.",
      next: "Find out what the tool did, and settle the call.",
    },
    reasons: { outcome_unknown: {}, tool_failed: {} },
  },
  DENIED: {
    outcome: {
      label: "denied",
      tone: "failure",
      explanation: "It must not run, and did not.",
    },
    reasons: {
      policy_denied: {
        label: "denied by policy",
        explanation: "A policy blocked it; it did not run, and no approval can allow it.",
        next: "Change the arguments, or have an admin change the policy.",
      },
      moderation_unavailable: {
        label: "denied: moderation away",
        explanation: "Moderation could not be asked, so it did not run.",
        next: "Start the run again once moderation is back.",
      },
      approval_rejected: { label: "rejected", explanation: "A person said no; it did not run." },
      approval_limit_reached: {
        label: "too many questions",
        explanation: "As many approvals wait already as may; nobody was asked, and it did not run.",
        next: "Have some of those answered that wait, and start the run again.",
      },
      budget_exhausted: {
        label: "no budget left",
        explanation: "It had no room in a budget and did not run.",
        next: "Look at its error: it names the budget, and when there is room again.",
      },
      event_limit_reached: {
        label: "history too long",
        explanation: "Its run's history is as long as one may be; it did not run.",
      },
      payload_limit_reached: {
        label: "too much data",
        explanation: "Its run's arguments and results are as large as they may be; it did not run.",
      },
      arguments_too_large: {
        label: "arguments too large",
        explanation: "Its final arguments are larger than arguments may be; it did not run.",
        next: "Have the step's $from refer to less.",
      },
      approval_expired: {
        label: "confirmed too late",
        explanation: "The time of its approval ran out before it could be executed.",
      },
      arguments_invalid: {
        label: "arguments invalid",
        explanation: "Its final arguments do not fit the tool; it did not run.",
        next: "Check the step's $from references and the tool's input schema.",
      },
      tool_unavailable: {
        label: "tool unavailable",
        explanation: "Its arguments could not be checked against the tool; it did not run.",
        next: "Start another run once the tool is back.",
      },
      membership_revoked: {
        label: "not permitted any more",
        explanation: "Its requester lost the membership or the role it needs; it did not run.",
      },
    },
  },
  EXPIRED: {
    outcome: {
      label: "expired",
      tone: "failure",
      explanation: "Nobody answered its approval in time; it did not run.",
    },
    reasons: {
      approval_expired: {},
      deadline_exceeded: {
        explanation: "The run's time ran out while it waited for an answer; it did not run.",
      },
    },
  },
  CANCELLED: {
    outcome: {
      label: "not run",
      tone: "neutral",
      explanation: "Its run ended before it was executed.",
    },
    reasons: {
      cancelled: {
        label: "cancelled",
        explanation: "Its run was cancelled before it was executed.",
      },
      run_ended: {},
    },
  },
} as const satisfies Named
