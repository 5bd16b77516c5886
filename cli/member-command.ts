import type { Command } from "commander"
import { ActorKind, ActorKindSchema, type Member } from "../gen/runwarden/gateway/v1/member_pb.ts"
import {
  AddMemberResponseSchema,
  GetMemberResponseSchema,
  ListMembersResponseSchema,
  MembershipService,
  RemoveMemberResponseSchema,
  UpdateMemberResponseSchema,
} from "../gen/runwarden/gateway/v1/membership_service_pb.ts"
import { type Role, RoleSchema } from "../gen/runwarden/options/v1/access_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { enumOption, enumText, enumValue } from "./enum-text.ts"
import { CliError } from "./failure.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf, timeText } from "./time-text.ts"

interface Fields {
  readonly role?: string
  readonly name?: string
  readonly service?: boolean
  readonly etag?: string
}

export function memberCommands(cli: Cli): Command {
  return group("member", "who belongs to the workspace, and in which role", [
    command<PageOptions>(cli, "list", "list the members", {
      examples: ["member list", "member list -o json"],
      configure: addPageOptions,
      action: listMembers,
    }),
    command(cli, "get <actor-id>", "show a member", {
      examples: ["member get <actor-id>"],
      action: getMember,
    }),
    command<Fields>(cli, "add <name>", "add a new actor as a member", {
      examples: ["member add 'Ada Lovelace' --role approver", "member add importer --service"],
      more: "\nNeeds an admin. Give the new member a key with `key create`.",
      configure: (made) =>
        made
          .addOption(enumOption("--role <role>", "what it may do", RoleSchema).default("member"))
          .option("--service", "it is a program, not a person"),
      action: addMember,
    }),
    command<Fields>(cli, "update <actor-id>", "change the role or the name", {
      examples: ["member update <actor-id> --role viewer"],
      more: "\nNeeds an admin.",
      configure: (made) =>
        withEtag(made)
          .addOption(enumOption("--role <role>", "the new role", RoleSchema))
          .option("--name <name>", "the new name"),
      action: updateMember,
    }),
    command<Fields>(cli, "remove <actor-id>", "end a membership, and revoke its keys", {
      examples: ["member remove <actor-id>"],
      more: "\nNeeds an admin.",
      configure: withEtag,
      action: removeMember,
    }),
  ])
}

function withEtag(made: Command): Command {
  return made.option("--etag <etag>", "only if the member is as it was read")
}

async function listMembers(context: Context, options: PageOptions): Promise<void> {
  const { members, session, workspaceId } = await open(context)
  await printList(context, options, {
    async read(page) {
      const found = await members.listMembers({ workspaceId, ...page }, session.options)
      return { items: found.members, nextPageToken: found.nextPageToken }
    },
    schema: ListMembersResponseSchema,
    toResponse: (found, nextPageToken) => ({ members: found, nextPageToken }),
    head: ["ACTOR", "NAME", "ROLE", "KIND", "SINCE"],
    row: (member) => [
      member.actorId,
      shortened(member.displayName, 50),
      enumText(RoleSchema, member.role),
      enumText(ActorKindSchema, member.kind),
      ageOf(member.createTime, context.io.now()),
    ],
    empty: "No members.",
  })
}

async function getMember(context: Context, _: object, [id = ""]: string[]): Promise<void> {
  const actorId = readId(id, "actor")
  const { members, session, workspaceId } = await open(context)
  const response = await members.getMember({ workspaceId, actorId }, session.options)
  context.out.message(GetMemberResponseSchema, response, () => tell(context, response.member))
}

async function addMember(context: Context, fields: Fields, [name = ""]: string[]): Promise<void> {
  const { members, session, workspaceId } = await open(context)
  const request = {
    workspaceId,
    requestId: newId(),
    displayName: name,
    role: enumValue<Role>(RoleSchema, fields.role ?? "member"),
    kind: fields.service === true ? ActorKind.SERVICE : ActorKind.USER,
  }
  const response = await members.addMember(request, session.options)
  context.out.message(AddMemberResponseSchema, response, () => {
    tell(context, response.member)
    const actorId = response.member?.actorId ?? ""
    context.out.note(`Give it a key: npx runwarden key create ${actorId}`)
  })
}

async function updateMember(context: Context, fields: Fields, [id = ""]: string[]): Promise<void> {
  const actorId = readId(id, "actor")
  const { role, name, etag = "" } = fields
  if (role === undefined && name === undefined) {
    throw new CliError("There is nothing to change: give --role or --name.")
  }
  const { members, session, workspaceId } = await open(context)
  const response = await members.updateMember(
    {
      workspaceId,
      requestId: newId(),
      actorId,
      etag,
      ...(role === undefined ? {} : { role: enumValue<Role>(RoleSchema, role) }),
      ...(name === undefined ? {} : { displayName: name }),
    },
    session.options,
  )
  context.out.message(UpdateMemberResponseSchema, response, () => tell(context, response.member))
}

async function removeMember(context: Context, fields: Fields, [id = ""]: string[]): Promise<void> {
  const { out } = context
  const actorId = readId(id, "actor")
  const { members, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), actorId, etag: fields.etag ?? "" }
  const response = await members.removeMember(request, session.options)
  out.message(RemoveMemberResponseSchema, response, () => {
    if (out.isQuiet) return out.line(actorId)
    out.marked("success", `member ${actorId} is removed; keys revoked: ${response.revokedKeys}`)
  })
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, members: session.client(MembershipService) }
}

function tell({ out, io }: Context, member: Member | undefined): void {
  if (member === undefined) return
  if (out.isQuiet) {
    out.line(member.actorId)
    return
  }
  out.details([
    ["actor", member.actorId],
    ["name", member.displayName],
    ["role", enumText(RoleSchema, member.role)],
    ["kind", enumText(ActorKindSchema, member.kind)],
    ["since", timeText(member.createTime, io.now())],
    ["changed", timeText(member.updateTime, io.now())],
    ["etag", member.etag],
  ])
}
