import type { Command } from "commander"
import {
  GetWorkspaceResponseSchema,
  ListWorkspacesResponseSchema,
  WorkspaceService,
} from "../gen/runwarden/gateway/v1/workspace_service_pb.ts"
import { RoleSchema } from "../gen/runwarden/options/v1/access_pb.ts"
import { type Cli, type Context, command, group } from "./command.ts"
import { enumText } from "./enum-text.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf, timeText } from "./time-text.ts"

export function workspaceCommands(cli: Cli): Command {
  return group("workspace", "the workspace, and who you are in it", [
    command(cli, "get", "show the workspace", {
      examples: ["workspace get"],
      action: getWorkspace,
    }),
    command<PageOptions>(cli, "list", "list your workspaces, and your role in each", {
      examples: ["workspace list", "--as approver workspace list"],
      configure: addPageOptions,
      action: listWorkspaces,
    }),
  ])
}

async function getWorkspace(context: Context): Promise<void> {
  const { out, io } = context
  const session = context.session()
  const workspaceId = await session.workspaceId()
  const response = await session
    .client(WorkspaceService)
    .getWorkspace({ workspaceId }, session.options)
  out.message(GetWorkspaceResponseSchema, response, () => {
    const { workspace } = response
    if (workspace === undefined) return
    if (out.isQuiet) return out.line(workspaceId)
    out.details([
      ["workspace", workspace.workspaceId],
      ["name", workspace.displayName],
      ["created", timeText(workspace.createTime, io.now())],
      ["gateway", session.target.url],
    ])
  })
}

async function listWorkspaces(context: Context, options: PageOptions): Promise<void> {
  const session = context.session()
  await printList(context, options, {
    async read(page) {
      const found = await session.client(WorkspaceService).listWorkspaces(page, session.options)
      return { items: found.memberships, nextPageToken: found.nextPageToken }
    },
    schema: ListWorkspacesResponseSchema,
    toResponse: (memberships, nextPageToken) => ({ memberships, nextPageToken }),
    head: ["WORKSPACE", "NAME", "YOUR ROLE", "AS", "SINCE"],
    row: ({ workspace, member }) => [
      workspace?.workspaceId ?? "",
      workspace?.displayName ?? "",
      enumText(RoleSchema, member?.role ?? 0),
      member?.displayName ?? "",
      ageOf(member?.createTime, context.io.now()),
    ],
    empty: "You are a member of no workspace.",
  })
}
