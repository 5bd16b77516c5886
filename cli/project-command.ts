import { Argument, type Command } from "commander"
import {
  type Project,
  ProjectState,
  ProjectStateSchema,
} from "../gen/runwarden/projects/v1/project_pb.ts"
import {
  ArchiveProjectResponseSchema,
  CreateProjectResponseSchema,
  GetProjectResponseSchema,
  ListProjectsResponseSchema,
  ProjectService,
  TransitionProjectResponseSchema,
  UpdateProjectResponseSchema,
} from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group, readId } from "./command.ts"
import { enumOption, enumText, enumValue } from "./enum-text.ts"
import { CliError } from "./failure.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { ageOf, timeText } from "./time-text.ts"

interface Fields {
  readonly name?: string
  readonly description?: string
  readonly etag?: string
}

type ListOptions = PageOptions & { readonly state?: string }

/** Archiving has a command of its own, and nothing goes back to draft. */
const targets: Readonly<Record<string, ProjectState>> = {
  active: ProjectState.ACTIVE,
  on_hold: ProjectState.ON_HOLD,
  completed: ProjectState.COMPLETED,
}

export function projectCommands(cli: Cli): Command {
  return group("project", "the projects of the workspace, directly and not by a run", [
    command<Fields>(cli, "create <name>", "create a project, as a draft", {
      examples: [`project create Apollo --description "Our first"`],
      configure: (made) => made.option("--description <text>", "what it is about"),
      action: createProject,
    }),
    command<ListOptions>(cli, "list", "list projects, newest first", {
      examples: ["project list", "project list --state active"],
      configure: (made) =>
        addPageOptions(made).addOption(
          enumOption("--state <state>", "only in this state", ProjectStateSchema),
        ),
      action: listProjects,
    }),
    command(cli, "get <project-id>", "show a project", {
      examples: ["project get <id>"],
      action: getProject,
    }),
    command<Fields>(cli, "update <project-id>", "change name or description", {
      examples: ["project update <id> --name Artemis"],
      configure: (made) =>
        withEtag(made)
          .option("--name <name>", "the new name")
          .option("--description <text>", "the new description"),
      action: updateProject,
    }),
    command<Fields>(cli, "transition <project-id>", "move a project to another state", {
      examples: ["project transition <id> active", "project transition <id> on_hold"],
      configure: (made) =>
        withEtag(made).addArgument(
          new Argument("<state>", "the state to move to").choices(Object.keys(targets)),
        ),
      action: transitionProject,
    }),
    command<Fields>(cli, "archive <project-id>", "close a project for good", {
      examples: ["project archive <id>"],
      configure: withEtag,
      action: archiveProject,
    }),
  ])
}

function withEtag(made: Command): Command {
  return made.option("--etag <etag>", "only if the project is as it was read")
}

async function createProject(context: Context, fields: Fields, [name = ""]: string[]) {
  const { out } = context
  const { projects, session, workspaceId } = await open(context)
  const { description = "" } = fields
  const request = { workspaceId, requestId: newId(), name, description }
  const response = await projects.createProject(request, session.options)
  out.message(CreateProjectResponseSchema, response, () => tell(context, response.project))
}

async function listProjects(context: Context, options: ListOptions) {
  const { projects, session, workspaceId } = await open(context)
  const state = enumValue<ProjectState>(ProjectStateSchema, options.state ?? "")
  await printList(context, options, {
    async read(page) {
      const found = await projects.listProjects({ workspaceId, state, ...page }, session.options)
      return { items: found.projects, nextPageToken: found.nextPageToken }
    },
    schema: ListProjectsResponseSchema,
    toResponse: (found, nextPageToken) => ({ projects: found, nextPageToken }),
    head: ["PROJECT", "NAME", "STATE", "CHANGED"],
    row: (project) => [
      project.projectId,
      shortened(project.name, 50),
      enumText(ProjectStateSchema, project.state),
      ageOf(project.updateTime, context.io.now()),
    ],
    empty: "No projects. Create one: npx runwarden project create Apollo",
  })
}

async function getProject(context: Context, _: object, [id = ""]: string[]) {
  const projectId = readId(id, "project")
  const { projects, session, workspaceId } = await open(context)
  const response = await projects.getProject({ workspaceId, projectId }, session.options)
  context.out.message(GetProjectResponseSchema, response, () => tell(context, response.project))
}

async function updateProject(context: Context, fields: Fields, [id = ""]: string[]) {
  const projectId = readId(id, "project")
  const { etag = "", name, description } = fields
  if (name === undefined && description === undefined) {
    throw new CliError("There is nothing to change: give --name or --description.")
  }
  const { projects, session, workspaceId } = await open(context)
  const response = await projects.updateProject(
    {
      workspaceId,
      requestId: newId(),
      projectId,
      etag,
      ...(name === undefined ? {} : { name }),
      ...(description === undefined ? {} : { description }),
    },
    session.options,
  )
  context.out.message(UpdateProjectResponseSchema, response, () => tell(context, response.project))
}

async function transitionProject(context: Context, fields: Fields, [id = "", to = ""]: string[]) {
  const projectId = readId(id, "project")
  const { projects, session, workspaceId } = await open(context)
  const state = targets[to] ?? ProjectState.UNSPECIFIED
  const request = { workspaceId, requestId: newId(), projectId, etag: fields.etag ?? "", state }
  const response = await projects.transitionProject(request, session.options)
  context.out.message(TransitionProjectResponseSchema, response, () => {
    tell(context, response.project)
  })
}

async function archiveProject(context: Context, fields: Fields, [id = ""]: string[]) {
  const projectId = readId(id, "project")
  const { projects, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), projectId, etag: fields.etag ?? "" }
  const response = await projects.archiveProject(request, session.options)
  context.out.message(ArchiveProjectResponseSchema, response, () => tell(context, response.project))
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, projects: session.client(ProjectService) }
}

function tell({ out, io }: Context, project: Project | undefined): void {
  if (project === undefined) return
  if (out.isQuiet) {
    out.line(project.projectId)
    return
  }
  out.details([
    ["project", project.projectId],
    ["name", project.name],
    ["description", project.description],
    ["state", enumText(ProjectStateSchema, project.state)],
    ["creator", project.creator],
    ["created", timeText(project.createTime, io.now())],
    ["changed", timeText(project.updateTime, io.now())],
    ["etag", project.etag],
  ])
}
