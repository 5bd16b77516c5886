/**
 * A disk that is full: the orchestrator's tables on a small file system of their own, which the test
 * fills up and clears. Needs root, to mount it.
 */
import { spawnSync } from "node:child_process"
import { chownSync, closeSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { connect } from "../../mesh/database.ts"
import { findPostgresBinaries } from "../../mesh/postgres-binaries.ts"
import type { Cluster } from "./cluster.ts"
import { sleep } from "./faults.ts"
import { onIdleDatabase } from "./orchestrator-database.ts"
import { mixedShapes } from "./run-shapes.ts"
import type { Scenario } from "./scenario.ts"

const sizeMb = 64
const fullMs = 3_000

/** Why this cannot be done here; undefined where it can. */
export function whyNoFullDisk(): string | undefined {
  return process.getuid?.() === 0 && process.platform === "linux"
    ? undefined
    : "a full disk: needs root on Linux, to mount a small file system"
}

export const fullDisk: Scenario = {
  name: "full disk",
  async run({ cluster, workload, random, runs, faults }) {
    await using disk = await moveToSmallDisk(cluster)
    const shapes = mixedShapes(runs, random.between(0, 2 ** 31))
    const half = shapes.length / 2
    await workload.start(shapes.slice(0, half), 32)
    disk.fill()
    faults.count("full disk")
    // Clients go on asking while there is no space, and are answered once there is.
    const rest = workload.start(shapes.slice(half), 32)
    await sleep(fullMs)
    disk.clear()
    await rest
    await workload.settled(60_000)
  },
}

interface SmallDisk extends AsyncDisposable {
  fill(): void
  clear(): void
}

async function moveToSmallDisk(cluster: Cluster): Promise<SmallDisk> {
  await using stack = new AsyncDisposableStack()
  const folder = mkdtempSync(join(tmpdir(), "runwarden-disk-"))
  stack.defer(() => rmSync(folder, { recursive: true, force: true }))
  run("mount", "-t", "tmpfs", "-o", `size=${sizeMb}m,mode=0755`, "tmpfs", folder)
  stack.defer(() => run("umount", folder))
  const place = join(folder, "tables")
  const { account } = findPostgresBinaries()
  run("mkdir", place)
  if (account !== undefined) chownSync(place, account.uid, account.gid)
  await using admin = await connect(cluster.postgres.adminUrl, { name: "adversity" })
  await admin.query(`create tablespace small_disk location '${place}'`)
  await onIdleDatabase(cluster, ["alter database orchestrator set tablespace small_disk"])
  stack.defer(async () => {
    await onIdleDatabase(cluster, ["alter database orchestrator set tablespace pg_default"])
    await using later = await connect(cluster.postgres.adminUrl, { name: "adversity" })
    await later.query("drop tablespace small_disk")
  })
  const filler = join(folder, "filler")
  const owned = stack.move()
  return {
    fill: () => fillUp(filler),
    clear: () => rmSync(filler, { force: true }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

function fillUp(file: string): void {
  const descriptor = openSync(file, "w")
  const block = Buffer.alloc(64 * 1024)
  try {
    for (;;) writeSync(descriptor, block)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error
  } finally {
    closeSync(descriptor)
  }
}

function run(command: string, ...args: readonly string[]): void {
  const { status, stderr } = spawnSync(command, args, { encoding: "utf8" })
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${stderr}`)
}
