/** What a person is shown for runs and approvals; see outcomes.ts. */
import type { ApprovalState } from "../gen/runwarden/orchestrator/v1/approval_pb.ts"
import type { RunState } from "../gen/runwarden/orchestrator/v1/run_pb.ts"
import type { StateOutcomes } from "./outcomes.ts"

type Named<Enum extends string | number | symbol> = Readonly<
  Record<Exclude<Enum, "UNSPECIFIED">, StateOutcomes>
>

const noRetry = "Change the plan, or have an admin change the policy; no approval can allow it."
const moderationAway = {
  label: "denied: moderation away",
  explanation:
    "Moderation could not be asked, so nothing was allowed to run: without a verdict the answer is no.",
  next: "Start the run again once moderation is back.",
} as const

export const runOutcomes = {
  QUEUED: {
    outcome: {
      label: "queued",
      tone: "progress",
      explanation: "The run is stored and waits for a worker.",
    },
    reasons: {
      scheduled: {
        label: "scheduled",
        explanation: "It begins at its time; until then it can be cancelled.",
      },
      thread_busy: {
        label: "waits for its turn",
        explanation: "Other runs of its thread came first; it begins once they have ended.",
      },
    },
  },
  RUNNING: {
    outcome: {
      label: "running",
      tone: "progress",
      explanation: "Its steps are being carried out.",
    },
    reasons: {},
  },
  REQUIRES_ACTION: {
    outcome: {
      label: "needs a person",
      tone: "attention",
      explanation: "The run waits for a person and goes on when it has an answer.",
      next: "Look at what it waits for, and answer it.",
    },
    reasons: {
      approval_required: {
        label: "needs confirmation",
        explanation: "The next call runs only if a person confirms it; no answer in time is a no.",
        next: "Look at the approval, and confirm or reject it.",
      },
      outcome_unknown: {
        label: "outcome unknown",
        explanation:
          "A call may or may not have taken effect, and is not repeated by guess. Its tool is asked again from time to time.",
        next: "Find out what the tool did, and settle the call.",
      },
      quarantined: {
        label: "set aside",
        explanation:
          "Replicas crashed over it again and again; nothing is done about it until a person says so.",
        next: "Find out why, then release the run, or cancel it.",
      },
    },
  },
  CANCELLING: {
    outcome: {
      label: "cancelling",
      tone: "progress",
      explanation: "Nothing new starts; a call that was executing is still coming to its end.",
    },
    reasons: { cancelled: {} },
  },
  SUCCEEDED: {
    outcome: { label: "succeeded", tone: "success", explanation: "Every step was carried out." },
    reasons: {},
  },
  FAILED: {
    outcome: {
      label: "failed",
      tone: "failure",
      explanation: "The run ended before its last step; what was done before stays done.",
      next: "Look at its calls, and start another run for what is left.",
    },
    reasons: {
      policy_denied: {
        label: "denied by policy",
        explanation: "A policy blocked the input, a call or a result, and nothing after it ran.",
        next: noRetry,
      },
      moderation_unavailable: moderationAway,
      approval_limit_reached: {
        label: "failed: too many questions",
        explanation:
          "A call needed a person, and as many approvals wait already as may: nobody was asked.",
        next: "Have some of those answered that wait, and start it again.",
      },
      budget_exhausted: {
        label: "budget exhausted",
        explanation: "The next call had no room in a budget; what was done before stays done.",
        next: "Look at the error of the denied call: it names the budget, and when there is room again.",
      },
      event_limit_reached: {
        label: "history too long",
        explanation: "Its history is as long as one may be; what was done before stays done.",
        next: "Start another run for what is left.",
      },
      payload_limit_reached: {
        label: "too much data",
        explanation:
          "Its arguments and results are as large as they may be; what was done before stays done.",
        next: "Start another run for what is left, with less data in it.",
      },
      arguments_too_large: {
        label: "arguments too large",
        explanation: "The final arguments of a step are larger than arguments may be.",
        next: "Have the step's $from refer to less.",
      },
      result_too_large: {
        label: "result too large",
        explanation: "A call was carried out, but its result is larger than is taken.",
        next: "Look what the tool did, and have it answer with less.",
      },
      approval_rejected: {
        label: "rejected",
        explanation: "A person said no to a call; it and everything after it did not run.",
        next: "Ask the person who rejected it, and start another run if it is changed.",
      },
      arguments_invalid: {
        label: "arguments invalid",
        explanation: "The final arguments of a step do not fit its tool, so it did not run.",
        next: "Check the step's $from references and the tool's input schema.",
      },
      tool_failed: {
        label: "tool failed",
        explanation: "A tool answered with an error, or could not be called.",
        next: "Read the error of the failed call; start another run once its cause is gone.",
      },
      tool_unavailable: {
        label: "tool unavailable",
        explanation: "A tool could not be reached, or did not answer.",
        next: "Read the error of the failed call; start another run once the tool is back.",
      },
      outcome_unknown: {
        label: "outcome unknown",
        explanation: "A call may or may not have taken effect when the run ended.",
        next: "Find out what the tool did, and settle the call.",
      },
      membership_revoked: {
        label: "not permitted any more",
        explanation: "While it waited, its requester lost the membership or the role it needs.",
        next: "Have a member start the run anew.",
      },
    },
  },
  CANCELLED: {
    outcome: {
      label: "cancelled",
      tone: "neutral",
      explanation: "The run was cancelled; what was done before stays done.",
    },
    reasons: { cancelled: {} },
  },
  EXPIRED: {
    outcome: {
      label: "expired",
      tone: "failure",
      explanation: "The time of the run ran out; what was done before stays done.",
      next: "Start it again, with more time if it needs that.",
    },
    reasons: {
      approval_expired: {
        label: "nobody confirmed",
        explanation: "Nobody answered the approval in time, which is a no.",
        next: "Start it again, and have an approver ready.",
      },
      deadline_exceeded: {
        label: "out of time",
        explanation: "The run's deadline passed, waiting included.",
      },
    },
  },
} as const satisfies Named<keyof typeof RunState>

export const approvalOutcomes = {
  PENDING: {
    outcome: {
      label: "waiting for an answer",
      tone: "attention",
      explanation: "The call runs only if a person confirms it.",
      next: "Look at it, and confirm or reject it.",
    },
    reasons: {},
  },
  APPROVED: {
    outcome: {
      label: "confirmed",
      tone: "success",
      explanation:
        "As many persons as it takes said yes: the call may run, once and exactly as shown.",
    },
    reasons: {},
  },
  REJECTED: {
    outcome: { label: "rejected", tone: "failure", explanation: "A person said no." },
    reasons: {},
  },
  EXPIRED: {
    outcome: {
      label: "expired",
      tone: "failure",
      explanation: "Nobody answered in time, which is a no.",
    },
    reasons: {},
  },
  CANCELLED: {
    outcome: {
      label: "withdrawn",
      tone: "neutral",
      explanation: "The run ended, so that there is nothing to answer any more.",
    },
    reasons: {},
  },
  SUPERSEDED: {
    outcome: {
      label: "superseded",
      tone: "neutral",
      explanation:
        "The call, the policy, the rule or the standing of an approver changed, so that no answer to this counts.",
      next: "Look for the approval that asks anew.",
    },
    reasons: {},
  },
} as const satisfies Named<keyof typeof ApprovalState>
