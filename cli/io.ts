import type { Readable, Writable } from "node:stream"

type Terminal = { readonly isTTY?: boolean; readonly columns?: number }

/** Everything of the world that a command touches, besides the mesh and the files that it is given. */
export interface Io {
  readonly env: Readonly<Record<string, string | undefined>>
  /** The folder of this project, by which the local mesh is found. */
  readonly checkout: string
  readonly cwd: string
  readonly stdin: Readable & Terminal & { setRawMode?(isRaw: boolean): unknown }
  readonly stdout: Writable & Terminal
  readonly stderr: Writable & Terminal
  /** Aborts at Ctrl-C. */
  readonly signal: AbortSignal
  now(): Date
}
