// Every public RPC × every id field × {another workspace's, one that does not exist, malformed,
// empty}, made from the descriptors. Fails when an RPC has no request here, so that a new one
// cannot be forgotten.
import { type DescMethod, type Message, toJsonString } from "@bufbuild/protobuf"
import { type ReflectMessage, reflect } from "@bufbuild/protobuf/reflect"
import { ConnectError } from "@connectrpc/connect"
import { afterAll, beforeAll, describe, expect, test } from "vitest"
import { BadRequestSchema } from "../gen/google/rpc/error_details_pb.ts"
import { IdKind } from "../gen/runwarden/options/v1/access_pb.ts"
import { ApprovalRuleService } from "../gen/runwarden/orchestrator/v1/approval_rule_service_pb.ts"
import { metadataOf, reasonOf } from "../mesh/errors.ts"
import { newId } from "../mesh/ids.ts"
import {
  fieldName,
  type IdField,
  idFields,
  loadServices,
  publicMethods,
  shortName,
  unmarkedIds,
} from "./descriptors.ts"
import { startTestMesh, type TestMesh, type TestWorkspace } from "./mesh.ts"
import { type Population, populate, snapshot } from "./population.ts"
import { sampleRequest, sampleRequests } from "./sample-requests.ts"

const services = await loadServices()
const methods = publicMethods(services)

let mesh: TestMesh
let ours: TestWorkspace
let theirs: TestWorkspace
let own: Population
let foreign: Population

beforeAll(async () => {
  mesh = await startTestMesh({
    env: {
      TELEMETRY_ALERT_P2_MODERATION_BLOCK_RATE_MIN_SAMPLE: "1",
      TELEMETRY_ALERT_DEBOUNCE_MS: "10",
    },
  })
  ours = await mesh.addWorkspace()
  theirs = await mesh.addWorkspace()
  own = await populate(mesh, ours)
  foreign = await populate(mesh, theirs)
  // Versions are counted in each workspace: this one is not there in ours.
  foreign = { ...foreign, rule_version: await anotherRuleVersion(theirs) }
}, 60_000)
afterAll(() => mesh?.[Symbol.asyncDispose]())

test("every public RPC has a request here, and every request an RPC", () => {
  expect(methods.map(shortName).sort()).toEqual(Object.keys(sampleRequests).sort())
})

test("every id field of a public request says what it names", () => {
  expect(methods.flatMap((method) => unmarkedIds(method.input))).toEqual([])
})

describe.each(methods.map((method) => [shortName(method), method] as const))("%s", (_, method) => {
  for (const field of idFields(method.input)) {
    const name = fieldName(field)
    const leaf = field.path.at(-1)?.name ?? ""

    test(`${name}: malformed`, async () => {
      const answer = await call(method, withId(method, field, malformedValue(leaf)))
      expect(answer.reason).toBe("INVALID_REQUEST")
      expect(answer.fields.join()).toContain(leaf)
    })

    if (isRequired(method, field)) {
      test(`${name}: empty`, async () => {
        const answer = await call(method, withId(method, field, ""))
        expect(answer.reason).toBe("INVALID_REQUEST")
        expect(answer.fields.join()).toContain(leaf)
      })
    }

    if (isChosenByCaller(field)) continue

    test(`${name}: another workspace's`, async () => {
      const value = foreignValue(method, leaf)
      const answer = await call(method, withId(method, field, value))
      switch (field.kind) {
        case IdKind.WORKSPACE: {
          expect(answer.reason).toBe("NOT_A_MEMBER")
          const missing = await call(method, withId(method, field, newId()))
          expect(comparable(answer, value)).toEqual(comparable(missing, missing.sent))
          return
        }
        case IdKind.RESOURCE: {
          expect(answer.reason).toBe("NOT_FOUND")
          const absent = absentValue(leaf)
          const missing = await call(method, withId(method, field, absent))
          expect(missing.reason).toBe("NOT_FOUND")
          expect(comparable(answer, value)).toEqual(comparable(missing, absent))
          return
        }
        default:
          expect(answer.reason).toBeUndefined()
          expect(answer.text).not.toContain(value)
          expect(isEmpty(answer.text)).toBe(true)
      }
    })
  }
})

test.each([
  ["ProjectService/CreateProject", "request_id", () => foreign.request_id],
  ["RunService/StartRun", "thread_id", () => foreign.thread_id],
  ["IngestionService/IngestDocument", "document_id", () => foreign.indexed_document_id],
])("%s: a %s that another workspace uses is free here", async (name, leaf, value) => {
  const method = methods.find((each) => shortName(each) === name)
  const field = method && idFields(method.input).find((each) => fieldName(each) === leaf)
  if (method === undefined || field === undefined) throw new Error("no such field")
  const answer = await call(method, withId(method, field, value()))
  expect(answer.reason).toBeUndefined()
})

test("nothing of the other workspace has changed", async () => {
  expect(await snapshot(mesh, theirs)).toEqual(foreign.snapshot)
})

// Last, for some of them end what the others need.
describe("with our own ids the same requests are found", () => {
  const isEnd = (method: DescMethod) => /^(Remove|Delete|Archive|Cancel|Revoke)/.test(method.name)
  for (const method of methods.toSorted((a, b) => Number(isEnd(a)) - Number(isEnd(b)))) {
    test(shortName(method), async () => {
      const answer = await call(method, request(method))
      expect(["NOT_FOUND", "INVALID_REQUEST", "MALFORMED_REQUEST", "NOT_A_MEMBER"]).not.toContain(
        answer.reason,
      )
      expect(answer.reason).not.toBe("INTERNAL")
    })
  }
})

async function anotherRuleVersion({ workspaceId, admin }: TestWorkspace): Promise<string> {
  const { version } = await mesh
    .client(ApprovalRuleService, admin)
    .createApprovalRuleVersion({ workspaceId, requestId: newId(), rules: [{ ruleId: "other" }] })
  return version?.ruleVersion ?? ""
}

interface Answered {
  readonly reason: string | undefined
  readonly message: string
  readonly metadata: Readonly<Record<string, string>>
  readonly fields: readonly string[]
  readonly text: string
  readonly sent: string
}

/** Calls as the admin of our workspace, who may call everything. */
async function call(method: DescMethod, message: Message): Promise<Answered> {
  const client = mesh.client(method.parent, ours.admin) as unknown as Record<
    string,
    (request: Message) => Promise<Message> & AsyncIterable<Message>
  >
  const sent = (message as Message & { workspaceId: string }).workspaceId
  const start = client[method.localName]
  if (start === undefined) throw new Error(`no ${method.localName}`)
  try {
    if (method.methodKind === "server_streaming") {
      let text = ""
      for await (const part of start(message)) text += toJsonString(method.output, part)
      return { reason: undefined, message: "", metadata: {}, fields: [], text, sent }
    }
    const text = toJsonString(method.output, await start(message))
    return { reason: undefined, message: "", metadata: {}, fields: [], text, sent }
  } catch (caught) {
    const error = ConnectError.from(caught)
    return {
      reason: reasonOf(error) ?? `no reason: ${error.message}`,
      message: error.rawMessage,
      metadata: metadataOf(error),
      fields: error
        .findDetails(BadRequestSchema)
        .flatMap((detail) => detail.fieldViolations.map((violation) => violation.field)),
      text: "",
      sent,
    }
  }
}

function request(method: DescMethod): Message {
  return sampleRequest(method, ours.workspaceId, own)
}

function withId(method: DescMethod, field: IdField, value: string): Message {
  const message = request(method)
  let at: ReflectMessage = reflect(method.input, message)
  for (const step of field.path.slice(0, -1)) {
    if (step.fieldKind !== "message") throw new Error(`${step.name} is no message`)
    at = at.get(step) as ReflectMessage
  }
  const leaf = field.path.at(-1)
  if (leaf?.fieldKind === "scalar") at.set(leaf, value)
  else if (leaf?.fieldKind === "list") {
    const list = at.get(leaf)
    list.clear()
    list.add(value)
  } else throw new Error("an id that is neither text nor a list of it")
  return message
}

/** Ids that a caller makes up, or that are only kept: there is nothing to find by them. */
function isChosenByCaller({ kind }: IdField): boolean {
  return kind === IdKind.CLIENT_CHOSEN || kind === IdKind.REFERENCE
}

function foreignValue(method: DescMethod, leaf: string): string {
  if (leaf === "workspace_id") return theirs.workspaceId
  const isIndexed = method.parent.typeName.startsWith("runwarden.retrieval.")
  const name =
    leaf === "document_ids" || (leaf === "document_id" && isIndexed) ? "indexed_document_id" : leaf
  const value = foreign[name as keyof Population]
  if (typeof value !== "string" || value === "") throw new Error(`no foreign ${name}`)
  return value
}

function absentValue(leaf: string): string {
  if (leaf === "policy_version") return "nothing@1"
  if (leaf === "provider") return "nobody"
  return leaf === "rule_version" ? "rules@999" : newId()
}

function malformedValue(leaf: string): string {
  return leaf === "policy_version" ? "no version" : "../not-an-id"
}

function isRequired(method: DescMethod, field: IdField): boolean {
  if (field.kind === IdKind.FILTER) return false
  const leaf = field.path.at(-1)?.name
  const optional = ["RunService/StartRun thread_id", "DocumentService/CreateDocument project_id"]
  return !optional.includes(`${shortName(method)} ${leaf}`)
}

/** An answer without the id that was asked for, so that two can be compared. */
function comparable(answer: Answered, id: string): object {
  const { reason, message, metadata } = answer
  return JSON.parse(JSON.stringify({ reason, message, metadata }).replaceAll(id, "<id>"))
}

/** Whether a list answer holds nothing. */
/** Whether an answer holds nothing; the name of an enum says how it was found, not what. */
function isEmpty(text: string): boolean {
  return Object.values(JSON.parse(text) as Record<string, unknown>).every(
    (value) =>
      (typeof value === "string" && /^[A-Z_]*$/.test(value)) ||
      (Array.isArray(value) && value.length === 0),
  )
}
