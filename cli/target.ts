/** Where the mesh is, and as whom to call it: options, then the environment, then the local mesh. */
import { dataFolderFor } from "../mesh/embedded-postgres-init.ts"
import { type LocalMember, type LocalState, readLocalState } from "../mesh/local-state.ts"
import { CliError } from "./failure.ts"
import type { Io } from "./io.ts"

export type RoleName = LocalMember["role"]

/** The roles from the least to the most powerful. */
export const roleNames: readonly RoleName[] = ["viewer", "member", "approver", "admin"]

export interface TargetOptions {
  readonly url?: string
  readonly key?: string
  readonly workspace?: string
  readonly as?: RoleName
}

export interface Target {
  readonly url: string
  /** Unknown where a key was given without a workspace: the gateway tells. */
  readonly workspaceId: string | undefined
  /** The key for a call that needs this role. */
  keyFor(least: RoleName): string
  /** Whether the keys are those of the local mesh's demo members. */
  readonly isLocal: boolean
}

/** Finds the mesh. Throws where there is none to be found. */
export function findTarget(options: TargetOptions, io: Pick<Io, "env" | "checkout">): Target {
  const { env } = io
  const url = given(options.url) ?? given(env.RUNWARDEN_URL)
  const key = given(options.key) ?? given(env.RUNWARDEN_API_KEY)
  const workspaceId = given(options.workspace) ?? given(env.RUNWARDEN_WORKSPACE)
  if (url !== undefined) checkUrl(url)
  if (workspaceId !== undefined) checkWorkspace(workspaceId)
  const local = url !== undefined && key !== undefined ? undefined : readState(io.checkout)
  if (options.as !== undefined) {
    if (key !== undefined) {
      throw new CliError("--as chooses a demo member of the local mesh, and an API key is given.", {
        next: "Leave out --as, or unset --key and RUNWARDEN_API_KEY.",
      })
    }
  }
  if (key !== undefined) {
    const place = url ?? local?.url
    if (place === undefined) throw noMesh()
    const isDemoKey = local?.members.some(({ apiKey }) => apiKey === key) === true
    return {
      url: place,
      workspaceId: workspaceId ?? (isDemoKey ? local?.workspaceId : undefined),
      keyFor: () => key,
      isLocal: false,
    }
  }
  if (local === undefined || (url !== undefined && !isSame(url, local.url))) {
    if (url === undefined) throw noMesh()
    throw new CliError(`No API key is given for ${url}.`, {
      next: "Set RUNWARDEN_API_KEY, or give --key.",
    })
  }
  return {
    url: local.url,
    workspaceId: workspaceId ?? local.workspaceId,
    keyFor: (least) => demoKey(local, options.as ?? least),
    isLocal: true,
  }
}

function demoKey(local: LocalState, role: RoleName): string {
  const found = local.members.find((member) => member.role === role)
  if (found === undefined) throw new CliError(`The local mesh has no demo member ${role}.`)
  return found.apiKey
}

function readState(checkout: string): LocalState | undefined {
  try {
    return readLocalState(dataFolderFor(checkout))
  } catch (error) {
    throw new CliError("What `npm start` left about the local mesh cannot be read.", {
      next: "Run `npm start` again, or set RUNWARDEN_URL and RUNWARDEN_API_KEY.",
      cause: error,
    })
  }
}

function noMesh(): CliError {
  return new CliError("No mesh was started from this checkout by you yet.", {
    reason: "no_mesh",
    next: "Start one with `npm start`, or set RUNWARDEN_URL and RUNWARDEN_API_KEY to use another.",
  })
}

function checkUrl(url: string): void {
  if (URL.canParse(url) && /^https?:\/\//i.test(url)) return
  throw new CliError(
    `The address of the mesh must be a URL such as http://127.0.0.1:7100, not "${url}".`,
  )
}

function checkWorkspace(workspaceId: string): void {
  if (/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(workspaceId)) return
  throw new CliError(`A workspace is named by its id (a UUID), not "${workspaceId}".`)
}

function isSame(one: string, other: string): boolean {
  return new URL(one).origin === new URL(other).origin
}

function given(value: string | undefined): string | undefined {
  return value === undefined || value.trim() === "" ? undefined : value.trim()
}
