import { create, type JsonObject } from "@bufbuild/protobuf"
import { timestampFromDate } from "@bufbuild/protobuf/wkt"
import { type Document, DocumentSchema } from "../../gen/runwarden/projects/v1/document_pb.ts"
import {
  ProjectState as MessageState,
  type Project,
  ProjectSchema,
} from "../../gen/runwarden/projects/v1/project_pb.ts"
import { RunwardenError } from "../../mesh/errors.ts"
import type { DocumentRow } from "./document-store.ts"
import { type ProjectState, projectStates } from "./project.ts"
import type { ProjectRow } from "./project-store.ts"

const messageStates = {
  draft: MessageState.DRAFT,
  active: MessageState.ACTIVE,
  on_hold: MessageState.ON_HOLD,
  completed: MessageState.COMPLETED,
  archived: MessageState.ARCHIVED,
} as const satisfies Readonly<Record<ProjectState, MessageState>>

export function toProject(row: ProjectRow): Project {
  return create(ProjectSchema, {
    projectId: row.projectId,
    name: row.name,
    description: row.description,
    state: messageStates[row.state],
    etag: row.revision,
    creator: row.creator,
    createTime: timestampFromDate(row.createTime),
    updateTime: timestampFromDate(row.updateTime),
  })
}

export function toDocument(row: DocumentRow, content = ""): Document {
  return create(DocumentSchema, {
    documentId: row.documentId,
    projectId: row.projectId ?? "",
    title: row.title,
    mediaType: row.mediaType,
    content,
    contentBytes: row.contentBytes,
    contentSha256: row.contentSha256,
    metadata: row.metadata,
    version: BigInt(row.version),
    etag: row.version,
    creator: row.creator,
    createTime: timestampFromDate(row.createTime),
    updateTime: timestampFromDate(row.updateTime),
  })
}

/** The state that a request names; unspecified is none, and what the contract does not know is refused. */
export function fromState(state: MessageState): ProjectState | undefined {
  if (state === MessageState.UNSPECIFIED) return undefined
  const found = projectStates.find((name) => messageStates[name] === state)
  if (found === undefined) throw new RunwardenError("INVALID_REQUEST", { field: "state" })
  return found
}

/** A project as tools answer it. */
export function projectJson(row: ProjectRow) {
  return {
    project_id: row.projectId,
    name: row.name,
    description: row.description,
    state: row.state,
    etag: row.revision,
    creator: row.creator,
    create_time: row.createTime.toISOString(),
    update_time: row.updateTime.toISOString(),
  } satisfies JsonObject
}

/** A document as tools answer it, without its text. */
export function documentJson(row: DocumentRow) {
  return {
    document_id: row.documentId,
    ...(row.projectId === null ? {} : { project_id: row.projectId }),
    title: row.title,
    media_type: row.mediaType,
    content_bytes: row.contentBytes,
    content_sha256: row.contentSha256,
    metadata: row.metadata,
    version: Number(row.version),
    etag: row.version,
    creator: row.creator,
    create_time: row.createTime.toISOString(),
    update_time: row.updateTime.toISOString(),
  } satisfies JsonObject
}
