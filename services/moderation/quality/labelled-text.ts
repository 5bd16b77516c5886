/** What a text is to the classifier; what is not said of it is not trained or measured with it. */
export interface LabelledText {
  /** The set, as the figures name it. */
  readonly set: SetName
  readonly text: string
  readonly isHarassment?: boolean
  readonly isHate?: boolean
  readonly isInjection?: boolean
}

export type SetName =
  | "tweets"
  | "jailbreaks"
  | "DAN"
  | "prompt extraction"
  | "questions"
  | "arguments"
  | "instructions"
  | "manual"
