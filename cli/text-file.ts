import { readFileSync } from "node:fs"
import { text as readAll } from "node:stream/consumers"
import { CliError } from "./failure.ts"
import type { Io } from "./io.ts"

/** A file's text, or that of stdin for `-`; `what` names it where it cannot be read. */
export async function readTextFile(io: Io, what: string, file: string): Promise<string> {
  if (file === "-") return readAll(io.stdin)
  try {
    return readFileSync(file, "utf8")
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const why =
      code === "ENOENT" ? "there is no such file" : code === "EISDIR" ? "it is a folder" : code
    throw new CliError(`The ${what} ${file} cannot be read: ${why}.`, { cause: error })
  }
}
