import type { Command } from "commander"
import type { Delegation } from "../gen/runwarden/orchestrator/v1/delegation_pb.ts"
import {
  CreateDelegationResponseSchema,
  DelegationService,
  ListDelegationsResponseSchema,
  RevokeDelegationResponseSchema,
} from "../gen/runwarden/orchestrator/v1/delegation_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf, readSeconds, timeText } from "./time-text.ts"

type ListOptions = PageOptions & { readonly all?: boolean; readonly actor?: string }

interface CreateOptions {
  readonly for: string
  readonly comment?: string
}

export function delegationCommands(cli: Cli): Command {
  return group("delegation", "who may answer approvals for whom", [
    command<ListOptions>(cli, "list", "list the delegations in force, newest first", {
      examples: ["delegation list", "delegation list --all", "delegation list --actor <actor-id>"],
      configure: (made) =>
        addPageOptions(made)
          .option("--all", "those that have ended too")
          .option("--actor <id>", "only from or to this member"),
      action: listDelegations,
    }),
    command<CreateOptions>(cli, "create <actor-id>", "let a member answer for you, for a time", {
      examples: ["delegation create <actor-id> --for 8h --comment 'on leave'"],
      more: `
Needs an approver. The delegate answers with \`approval confirm <id> --delegation <delegation-id>\`,
where the approval's rule allows it.`,
      configure: (made) =>
        made
          .requiredOption("--for <length>", "for how long, such as 8h; 90d at most")
          .option("--comment <text>", "why, for the record"),
      action: createDelegation,
    }),
    command(cli, "revoke <delegation-id>", "end a delegation", {
      examples: ["delegation revoke <delegation-id>"],
      more: "\nIts delegator may, and an admin (--as admin).",
      action: revokeDelegation,
    }),
  ])
}

async function listDelegations(context: Context, options: ListOptions): Promise<void> {
  const { delegations, session, workspaceId } = await open(context)
  const actorId = options.actor === undefined ? "" : readId(options.actor, "actor")
  const filters = { workspaceId, actorId, activeOnly: options.all !== true }
  const now = context.io.now()
  await printList(context, options, {
    async read(page) {
      const found = await delegations.listDelegations({ ...filters, ...page }, session.options)
      return { items: found.delegations, nextPageToken: found.nextPageToken }
    },
    schema: ListDelegationsResponseSchema,
    toResponse: (found, nextPageToken) => ({ delegations: found, nextPageToken }),
    head: ["DELEGATION", "FROM", "TO", "IN FORCE", "ENDS"],
    row: (delegation) => [
      delegation.delegationId,
      delegation.delegatorId,
      delegation.delegateId,
      delegation.active ? "yes" : "no",
      ageOf(delegation.expireTime, now),
    ],
    empty: "No delegations.",
  })
}

async function createDelegation(
  context: Context,
  options: CreateOptions,
  [id = ""]: string[],
): Promise<void> {
  const delegateId = readId(id, "actor")
  const seconds = readSeconds(options.for, "--for")
  const { delegations, session, workspaceId } = await open(context)
  const request = {
    ...{ workspaceId, delegateId },
    requestId: newId(),
    duration: { seconds: BigInt(seconds) },
    comment: options.comment ?? "",
  }
  const response = await delegations.createDelegation(request, session.options)
  context.out.message(CreateDelegationResponseSchema, response, () => {
    tell(context, response.delegation)
  })
}

async function revokeDelegation(context: Context, _: object, [id = ""]: string[]): Promise<void> {
  const delegationId = readId(id, "delegation")
  const { delegations, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), delegationId }
  const response = await delegations.revokeDelegation(request, session.options)
  context.out.message(RevokeDelegationResponseSchema, response, () => {
    tell(context, response.delegation)
  })
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, delegations: session.client(DelegationService) }
}

function tell({ out, io }: Context, delegation: Delegation | undefined): void {
  if (delegation === undefined) return
  if (out.isQuiet) {
    out.line(delegation.delegationId)
    return
  }
  const now = io.now()
  out.details([
    ["delegation", delegation.delegationId],
    ["from", delegation.delegatorId],
    ["to", delegation.delegateId],
    ["in force", delegation.active ? "yes" : "no"],
    ["comment", delegation.comment],
    ["made", timeText(delegation.createTime, now)],
    ["ends", timeText(delegation.expireTime, now)],
    ["revoked", timeText(delegation.revokeTime, now)],
    ["revoked by", delegation.revokerId],
  ])
}
