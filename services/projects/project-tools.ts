import { z } from "zod"
import { eventTo, projectStates } from "./project.ts"
import * as actions from "./project-actions.ts"
import { projectJson } from "./project-message.ts"
import { defineTool, type Tool } from "./tool.ts"

const projectId = z.uuid().describe("Id of the project, as project.create or project.list gave it.")
const etag = z
  .string()
  .max(64)
  .optional()
  .describe(
    "The etag that the project had when you read it. Give it to fail instead of overwriting a change that somebody else made meanwhile.",
  )
const name = z.string().min(1).max(200).describe("Name of the project, for people.")
const description = z.string().max(4000).describe("What the project is about, in plain text.")

const project = z.strictObject({
  project_id: z.uuid().describe("Id of the project; pass it to the other tools."),
  name: z.string(),
  description: z.string(),
  state: z.enum(projectStates),
  etag: z.string().describe("Changes with every change of the project."),
  creator: z.string().describe("Actor who created the project."),
  create_time: z.string().describe("RFC 3339 time."),
  update_time: z.string().describe("RFC 3339 time."),
})

export const projectTools: readonly Tool[] = [
  defineTool({
    name: "project.create",
    title: "Create a project",
    description:
      "Creates a project in the state draft and returns it with its project_id. Use project.transition to start it, and document.create to file documents into it.",
    risk: "low",
    effect: "keyed",
    input: z.strictObject({ name, description: description.optional() }),
    output: project,
    async run(tx, author, args) {
      const input = { name: args.name, description: args.description ?? "" }
      return projectJson(await actions.createProject(tx, author, input))
    },
  }),
  defineTool({
    name: "project.get",
    title: "Get a project",
    description: "Returns one project with its state. Fails with project_not_found.",
    risk: "low",
    effect: "read",
    input: z.strictObject({ project_id: projectId }),
    output: project,
    async run(tx, _, args) {
      return projectJson(await actions.getProject(tx, args.project_id))
    },
  }),
  defineTool({
    name: "project.list",
    title: "List projects",
    description:
      "Returns the projects of the workspace, newest first, a page at a time. An empty next_page_token says that there are no more.",
    risk: "low",
    effect: "read",
    input: z.strictObject({
      state: z.enum(projectStates).optional().describe("Only projects in this state."),
      page_size: z.int().min(1).max(200).optional().describe("At most so many; 50 if absent."),
      page_token: z.string().max(4096).optional().describe("next_page_token of the page before."),
    }),
    output: z.strictObject({ projects: z.array(project), next_page_token: z.string() }),
    async run(tx, _, args) {
      const page = await actions.listProjects(tx, {
        state: args.state,
        pageSize: args.page_size ?? 0,
        pageToken: args.page_token ?? "",
      })
      return { projects: page.projects.map(projectJson), next_page_token: page.nextPageToken }
    },
  }),
  defineTool({
    name: "project.update",
    title: "Rename or describe a project",
    description:
      "Changes the name, the description, or both; what is absent stays. Fails with project_not_found, etag_mismatch, and illegal_transition where the project is archived.",
    risk: "medium",
    effect: "keyed",
    input: z.strictObject({
      project_id: projectId,
      name: name.optional(),
      description: description.optional(),
      etag,
    }),
    output: project,
    async run(tx, author, args) {
      const change = {
        projectId: args.project_id,
        etag: args.etag ?? "",
        name: args.name,
        description: args.description,
      }
      return projectJson(await actions.updateProject(tx, author, change))
    },
  }),
  defineTool({
    name: "project.transition",
    title: "Move a project to another state",
    description:
      "Moves a project to active, on_hold or completed. Allowed: draft to active; active to on_hold or completed; on_hold to active or completed; completed to active. Fails with illegal_transition, which names the current and the allowed states, and with project_not_found or etag_mismatch. Use project.archive to close a project.",
    risk: "medium",
    effect: "keyed",
    input: z.strictObject({
      project_id: projectId,
      state: z.enum(["active", "on_hold", "completed"]).describe("The state to move to."),
      etag,
    }),
    output: project,
    async run(tx, author, args) {
      const event = eventTo(args.state)
      if (event === undefined) throw new Error(`nothing leads to ${args.state}`)
      const move = { projectId: args.project_id, etag: args.etag ?? "", event }
      return projectJson(await actions.moveProject(tx, author, move))
    },
  }),
  defineTool({
    name: "project.archive",
    title: "Archive a project",
    description:
      "Closes a project for good, from any state. It cannot be undone, and afterwards neither the project nor its documents can be changed. Fails with project_not_found, etag_mismatch, and illegal_transition where the project is archived already.",
    risk: "high",
    effect: "keyed",
    input: z.strictObject({ project_id: projectId, etag }),
    output: project,
    async run(tx, author, args) {
      const move = {
        projectId: args.project_id,
        etag: args.etag ?? "",
        event: "archive",
      } as const
      return projectJson(await actions.moveProject(tx, author, move))
    },
  }),
]
