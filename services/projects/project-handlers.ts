import { create } from "@bufbuild/protobuf"
import type { HandlerContext, ServiceImpl } from "@connectrpc/connect"
import {
  ArchiveProjectResponseSchema,
  CreateProjectResponseSchema,
  ProjectService,
  TransitionProjectResponseSchema,
  UpdateProjectResponseSchema,
} from "../../gen/runwarden/projects/v1/project_service_pb.ts"
import type { Database } from "../../mesh/database.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import { callerOf } from "../../mesh/identity.ts"
import { answerOnce } from "../../mesh/request-id.ts"
import { eventTo, type ProjectEvent, type ProjectState } from "./project.ts"
import * as actions from "./project-actions.ts"
import { fromState, toProject } from "./project-message.ts"

export interface HandlerDeps {
  readonly database: Database
  /** Told after every change, so that the outboxes need not wait for their next poll. */
  readonly changed: () => void
}

const { method } = ProjectService

export function projectHandlers({ database, changed }: HandlerDeps) {
  return {
    async createProject(request, context) {
      const answer = await answerOnce(
        database,
        method.createProject,
        request,
        async (tx) => {
          const project = await actions.createProject(tx, authorOf(context), request)
          return create(CreateProjectResponseSchema, { project: toProject(project) })
        },
        { signal: context.signal },
      )
      changed()
      return answer
    },

    async getProject(request, { signal }) {
      const project = await database.tenant(
        request.workspaceId,
        (tx) => actions.getProject(tx, request.projectId),
        { signal, name: "get project" },
      )
      return { project: toProject(project) }
    },

    async listProjects(request, { signal }) {
      const { pageSize, pageToken } = request
      const state = fromState(request.state)
      const page = await database.tenant(
        request.workspaceId,
        (tx) => actions.listProjects(tx, { state, pageSize, pageToken }),
        { signal, name: "list projects" },
      )
      return { projects: page.projects.map(toProject), nextPageToken: page.nextPageToken }
    },

    async updateProject(request, context) {
      const { projectId, etag, name, description } = request
      const change = { projectId, etag, name, description }
      const answer = await answerOnce(
        database,
        method.updateProject,
        request,
        async (tx) => {
          const project = await actions.updateProject(tx, authorOf(context), change)
          return create(UpdateProjectResponseSchema, { project: toProject(project) })
        },
        { signal: context.signal },
      )
      changed()
      return answer
    },

    async transitionProject(request, context) {
      const { projectId, etag } = request
      const event = requireEvent(fromState(request.state))
      const answer = await answerOnce(
        database,
        method.transitionProject,
        request,
        async (tx) => {
          const move = { projectId, etag, event }
          const project = await actions.moveProject(tx, authorOf(context), move)
          return create(TransitionProjectResponseSchema, { project: toProject(project) })
        },
        { signal: context.signal },
      )
      changed()
      return answer
    },

    async archiveProject(request, context) {
      const { projectId, etag } = request
      const answer = await answerOnce(
        database,
        method.archiveProject,
        request,
        async (tx) => {
          const move = { projectId, etag, event: "archive" } as const
          const project = await actions.moveProject(tx, authorOf(context), move)
          return create(ArchiveProjectResponseSchema, { project: toProject(project) })
        },
        { signal: context.signal },
      )
      changed()
      return answer
    },
  } satisfies ServiceImpl<typeof ProjectService>
}

export function authorOf(context: HandlerContext): actions.Author {
  return { actorId: callerOf(context).actorId }
}

function requireEvent(target: ProjectState | undefined): ProjectEvent {
  const event = target === undefined ? undefined : eventTo(target)
  if (event === undefined) throw new RunwardenError("INVALID_REQUEST", { field: "state" })
  return event
}
