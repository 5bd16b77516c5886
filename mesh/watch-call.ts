import type { Interceptor } from "@connectrpc/connect"

type Answer = Awaited<ReturnType<ReturnType<Interceptor>>>

/** What is to be done when a call ends. */
export interface Watcher {
  /** May throw another error in place of the one it was given. */
  failed(error: unknown): void
  ended?(): void
}

/** Follows a call to its real end: of a stream, when its last message was taken or it was left. */
export async function watch(answer: Promise<Answer>, watcher: Watcher): Promise<Answer> {
  let response: Answer
  try {
    response = await answer
  } catch (error) {
    try {
      watcher.failed(error)
      throw error
    } finally {
      watcher.ended?.()
    }
  }
  if (!response.stream) {
    watcher.ended?.()
    return response
  }
  const messages = response.message
  async function* watched() {
    try {
      yield* messages
    } catch (error) {
      watcher.failed(error)
      throw error
    } finally {
      watcher.ended?.()
    }
  }
  return { ...response, message: watched() }
}
