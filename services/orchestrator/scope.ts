/**
 * How long something is worth waiting for.
 *
 * States: open → ended, once, with a reason. Waits hang on it without a listener each, and the
 * signal is made only for those who must pass one on: most calls end long before their scope.
 */
export class Scope {
  readonly #waiting = new Set<(reason: unknown) => void>()
  #controller: AbortController | undefined
  #isEnded = false
  #reason: unknown

  get isEnded(): boolean {
    return this.#isEnded
  }

  /** Aborts when the scope ends. */
  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController()
      if (this.#isEnded) this.#controller.abort(this.#reason)
    }
    return this.#controller.signal
  }

  end(reason: unknown): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#reason = reason
    this.#controller?.abort(reason)
    for (const giveUp of this.#waiting) giveUp(reason)
    this.#waiting.clear()
  }

  throwIfEnded(): void {
    if (this.#isEnded) throw this.#reason
  }

  /** Settles as the work does, or rejects with the reason as soon as the scope ends. */
  race<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.#waiting.add(reject)
      work.then(
        (value) => {
          this.#waiting.delete(reject)
          resolve(value)
        },
        (error: unknown) => {
          this.#waiting.delete(reject)
          reject(error)
        },
      )
      if (this.#isEnded) reject(this.#reason)
    })
  }
}
