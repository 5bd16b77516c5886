/**
 * Lays the protos that are not ours into `third_party/`, out of the installed packages, so that buf
 * works without a registry. The folder is not committed; running this again rewrites it.
 */
import { cpSync, mkdirSync, rmSync, writeFileSync } from "node:fs"
import path from "node:path"
import { file_buf_validate_validate } from "@bufbuild/protovalidate/gen/buf/validate/validate_pb.js"
import { printProtoFile } from "./print-proto.ts"

const root = path.resolve(import.meta.dirname, "..")
const target = path.join(root, "third_party")

function packageFolder(name: string): string {
  return path.join(root, "node_modules", name)
}

const copied: readonly (readonly [from: string, to: string])[] = [
  ...["api/annotations", "api/http", "rpc/code", "rpc/error_details", "rpc/status"].map(
    (name) =>
      [
        path.join(packageFolder("google-gax"), `build/protos/google/${name}.proto`),
        `google/${name}.proto`,
      ] as const,
  ),
  [
    path.join(packageFolder("grpc-health-check"), "proto/health/v1/health.proto"),
    "grpc/health/v1/health.proto",
  ],
]

rmSync(target, { recursive: true, force: true })
for (const [from, to] of copied) {
  const file = path.join(target, to)
  mkdirSync(path.dirname(file), { recursive: true })
  cpSync(from, file)
}
const validate = path.join(target, "buf/validate/validate.proto")
mkdirSync(path.dirname(validate), { recursive: true })
writeFileSync(validate, printProtoFile(file_buf_validate_validate.proto))
