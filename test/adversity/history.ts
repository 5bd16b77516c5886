/** What the outside saw: every acknowledged answer with its time. The checker believes nobody else. */

export const effectClasses = ["read", "keyed", "unsafe"] as const

export type EffectClass = (typeof effectClasses)[number]

/** One planned step, with what it must have asked of the tool by the time it is executed. */
export interface ExpectedStep {
  readonly tool: string
  readonly effect: EffectClass
  readonly isHigh: boolean
  readonly digest: string
  /** What may go wrong at the tool; empty where nothing is meant to. */
  readonly mode: string
}

export type HistoryEntry = { readonly at: number } & (
  | {
      readonly kind: "run_started"
      readonly workspaceId: string
      readonly runId: string
      readonly requestId: string
      readonly requesterId: string
      readonly steps: readonly ExpectedStep[]
    }
  | {
      readonly kind: "run_seen"
      readonly workspaceId: string
      readonly runId: string
      readonly state: string
      readonly isTerminal: boolean
    }
  | {
      readonly kind: "approval_decided"
      readonly workspaceId: string
      readonly runId: string
      readonly approvalId: string
      readonly digest: string
      readonly deciderId: string
      readonly answer: "approved" | "rejected"
    }
  | { readonly kind: "run_cancelled"; readonly workspaceId: string; readonly runId: string }
  | {
      readonly kind: "call_settled"
      readonly workspaceId: string
      readonly runId: string
      readonly stepIndex: number
    }
  | {
      readonly kind: "member_added"
      readonly workspaceId: string
      readonly actorId: string
      readonly role: "admin" | "approver" | "member"
    }
  | {
      /** Its database was restored to a time before the run: it is gone, by a person's doing. */
      readonly kind: "run_lost"
      readonly workspaceId: string
      readonly runId: string
    }
  | {
      /** Its database was restored: what was seen before may be undone. */
      readonly kind: "restored"
      readonly workspaceId: string
    }
  | {
      /** An answer that no fault explains. */
      readonly kind: "surprise"
      readonly workspaceId: string
      readonly what: string
    }
)

export type StartedRun = Extract<HistoryEntry, { readonly kind: "run_started" }>

type Unstamped<T> = T extends unknown ? Omit<T, "at"> : never

export class History {
  readonly entries: HistoryEntry[] = []

  note(entry: Unstamped<HistoryEntry>): void {
    this.entries.push({ at: Date.now(), ...entry } as HistoryEntry)
  }
}
