import { create, toJson } from "@bufbuild/protobuf"
import { CitationSchema } from "../../gen/runwarden/retrieval/v1/citation_pb.ts"
import {
  ExecuteToolResponseSchema,
  GetOutcomeResponseSchema,
  ListToolsResponseSchema,
  Outcome,
  type ToolProviderService,
} from "../../gen/runwarden/tools/v1/tool_provider_service_pb.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import type { Handlers } from "../../mesh/service.ts"
import { toCitation } from "./document-message.ts"
import { readSearchArguments, searchTool } from "./search-tool.ts"
import type { Searcher } from "./vectors/searcher.ts"

/** The workspace is the identity's, whatever the arguments say. */
export function toolHandlers(deps: {
  readonly searcher: Searcher
}): Handlers<typeof ToolProviderService> {
  const { searcher } = deps
  return {
    listTools: () => create(ListToolsResponseSchema, { tools: [searchTool] }),

    async executeTool(request, context) {
      requireKnown(request)
      const query = readSearchArguments(request.arguments)
      const { workspaceId } = callerOf(context)
      const { passages } = await searcher.search(workspaceId, query, "best", context.signal)
      const found = passages.map((row) => ({
        citation: toJson(CitationSchema, toCitation(row), {
          useProtoFieldName: true,
          alwaysEmitImplicit: true,
        }),
        score: row.score,
      }))
      const result = { passages: found }
      return create(ExecuteToolResponseSchema, { outcome: { case: "result", value: result } })
    },

    // A search leaves nothing behind, so there is never an outcome to settle.
    getOutcome: () => create(GetOutcomeResponseSchema, { outcome: Outcome.NOT_EXECUTED }),
  }
}

function requireKnown({ tool, version }: { readonly tool: string; readonly version: string }) {
  if (tool === searchTool.name && version === searchTool.version) return
  throw new RunwardenError("UNKNOWN_TOOL", { field: "tool", tool: `${tool}@${version}` })
}
