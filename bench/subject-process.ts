/** The parent's end of a subject: starts it, gives it orders, and ends it. */
import { type ChildProcess, fork } from "node:child_process"
import path from "node:path"
import type { Order, Orders, Reply, SubjectConfig } from "./subject.ts"

export interface SubjectProcess extends AsyncDisposable {
  /** Does one thing after the other; rejects with what went wrong there. */
  ask<Name extends keyof Orders>(
    name: Name,
    order: Parameters<Orders[Name]>[0],
  ): Promise<ReturnType<Orders[Name]>>
}

const file = path.join(import.meta.dirname, "subject.ts")
const startTimeoutMs = 90_000

export async function startSubject(config: SubjectConfig): Promise<SubjectProcess> {
  const child = fork(file, { stdio: ["ignore", "inherit", "inherit", "ipc"] })
  child.send(config)
  await replyOf(child, startTimeoutMs)
  return {
    async ask(name, order) {
      child.send({ name, ...order } as Order)
      return (await replyOf(child)) as never
    },
    async [Symbol.asyncDispose]() {
      if (child.exitCode !== null || child.signalCode !== null) return
      const { promise, resolve } = Promise.withResolvers<void>()
      child.once("exit", () => resolve())
      child.disconnect()
      await promise
    },
  }
}

async function replyOf(child: ChildProcess, timeoutMs?: number): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>()
  const onExit = (code: number | null) => reject(new Error(`a subject ended with ${code}`))
  const onMessage = (reply: Reply) => {
    if (reply.kind === "failed") reject(new Error(reply.message))
    else resolve(reply.kind === "done" ? reply.result : undefined)
  }
  const timer =
    timeoutMs === undefined
      ? undefined
      : setTimeout(() => reject(new Error("a subject did not start in time")), timeoutMs)
  child.once("exit", onExit)
  child.once("message", onMessage)
  try {
    return await promise
  } finally {
    clearTimeout(timer)
    child.off("exit", onExit)
    child.off("message", onMessage)
  }
}
