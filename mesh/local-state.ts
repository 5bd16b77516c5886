import { chmodSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { z } from "zod"

/** What the command line needs to find the mesh that runs on this machine. */
export interface LocalState {
  /** Base URL of the gateway, such as `http://127.0.0.1:7100`. */
  readonly url: string
  readonly workspaceId: string
  /** The demo members, with their API keys. */
  readonly members: readonly LocalMember[]
}

/** A member of the demo workspace. */
export interface LocalMember {
  readonly actorId: string
  readonly displayName: string
  readonly role: "admin" | "approver" | "member" | "viewer"
  readonly apiKey: string
}

const stateSchema = z.object({
  url: z.url(),
  workspaceId: z.uuid(),
  members: z.array(
    z.object({
      actorId: z.uuid(),
      displayName: z.string(),
      role: z.enum(["admin", "approver", "member", "viewer"]),
      apiKey: z.string(),
    }),
  ),
})

/** Reads the state that `npm start` left in the data folder; undefined where it never ran. */
export function readLocalState(dataFolder: string): LocalState | undefined {
  const file = stateFile(dataFolder)
  if (!existsSync(file)) return undefined
  const found = stateSchema.safeParse(JSON.parse(readFileSync(file, "utf8")))
  return found.success ? found.data : undefined
}

/** Writes the state for the user who runs the mesh and nobody else: it holds keys. */
export function writeLocalState(dataFolder: string, state: LocalState): void {
  const file = stateFile(dataFolder)
  rmSync(file, { force: true })
  writeFileSync(file, `${JSON.stringify(state, null, 2)}\n`, { mode: 0o600 })
  chmodSync(file, 0o600)
}

function stateFile(dataFolder: string): string {
  return join(dataFolder, "local.json")
}
