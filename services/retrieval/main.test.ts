import { spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { text } from "node:stream/consumers"
import { expect, test } from "vitest"

test("without its environment the process ends and names what is missing", async () => {
  const main = join(import.meta.dirname, "main.ts")
  const child = spawn(process.execPath, [main], { env: {}, stdio: ["ignore", "pipe", "pipe"] })
  const output = Promise.all([text(child.stdout), text(child.stderr)])
  const [code] = await once(child, "exit")
  expect(code).not.toBe(0)
  const said = (await output).join("\n")
  expect(said).toContain("RETRIEVAL_DATABASE_URL")
  expect(said).toContain("RETRIEVAL_WORKER_DATABASE_URL")
}, 30_000)
