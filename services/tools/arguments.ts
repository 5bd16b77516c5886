import type { JsonObject } from "@bufbuild/protobuf"
import { RunwardenError } from "../../mesh/errors.ts"
import type { SchemaChecker } from "./schema-checker.ts"
import { fullNameOf } from "./tool-message.ts"
import type { ToolRow } from "./tool-store.ts"

/** Throws TOOL_ARGUMENTS_INVALID, with a violation per place, unless the arguments fit the tool. */
export function requireValidArguments(
  checker: SchemaChecker,
  tool: ToolRow,
  args: JsonObject,
): void {
  const schema = tool.definition.inputSchema as JsonObject
  const faults = checker.check(`${tool.digest} input`, schema, args)
  const [first] = faults
  if (first === undefined) return
  throw new RunwardenError(
    "TOOL_ARGUMENTS_INVALID",
    { tool: fullNameOf(tool), field: `arguments${first.pointer}` },
    {
      violations: faults.map(({ pointer, description }) => ({
        field: `arguments${pointer}`,
        description,
      })),
    },
  )
}
