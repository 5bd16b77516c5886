// The access rule, from every kind of caller: who may call what is decided here, once for all
// transports.
import { create as createMessage } from "@bufbuild/protobuf"
import { createContextValues } from "@connectrpc/connect"
import { afterEach, describe, expect, test } from "vitest"
import { Role } from "../gen/runwarden/options/v1/access_pb.ts"
import { ProjectService } from "../gen/runwarden/projects/v1/project_service_pb.ts"
import { EventService } from "../gen/runwarden/telemetry/v1/event_service_pb.ts"
import { deadlineKey } from "./deadline.ts"
import { RunwardenError, reasonOf } from "./errors.ts"
import {
  actingAs,
  memberSubject,
  type ServiceName,
  type Subject,
  serviceSubject,
} from "./identity.ts"
import { newId } from "./ids.ts"
import { accessRuleOf, outerInterceptors, requireAccessRules } from "./interceptors.ts"
import { compose, unaryRequest } from "./method-chain.ts"
import { route } from "./service.ts"
import { testClient, testRuntime } from "./testing.ts"

const workspaceId = newId()
const actorId = newId()
let handled = 0
afterEach(() => {
  handled = 0
})

function count<T>(answer: T): () => T {
  return () => {
    handled++
    return answer
  }
}

const projects = {
  runtime: testRuntime("projects"),
  routes: [
    route(ProjectService, {
      createProject: count({}),
      getProject: count({}),
      listProjects: count({}),
      updateProject: count({}),
      transitionProject: count({}),
      archiveProject: count({}),
    }),
  ],
}
const telemetry = {
  runtime: testRuntime("telemetry"),
  routes: [
    route(EventService, {
      recordEvents: count({ recordedCount: 1 }),
      batchRecordEvents: count({}),
    }),
  ],
}

function create(subject: Subject, as: ServiceName = "gateway"): Promise<string | undefined> {
  return testClient(ProjectService, projects, as)
    .createProject({ workspaceId, requestId: newId(), name: "x" }, actingAs(subject))
    .then(() => undefined, reasonOf)
}

function record(subject: Subject, as: ServiceName): Promise<string | undefined> {
  const event = {
    eventId: newId(),
    occurTime: { seconds: 1n },
    payload: { case: "runChanged", value: { state: "running" } },
  } as const
  return testClient(EventService, telemetry, as)
    .recordEvents({ workspaceId, events: [event] }, actingAs(subject))
    .then(() => undefined, reasonOf)
}

describe("a public RPC for members", () => {
  test.each([
    [Role.VIEWER, "ROLE_TOO_LOW"],
    [Role.UNSPECIFIED, "ROLE_TOO_LOW"],
    [Role.MEMBER, undefined],
    [Role.APPROVER, undefined],
    [Role.ADMIN, undefined],
  ])("role %i through the gateway: %s", async (role, reason) => {
    expect(await create(memberSubject(workspaceId, actorId, role))).toBe(reason)
    expect(handled).toBe(reason === undefined ? 1 : 0)
  })

  test("is refused to a service that is not named, even for an admin", async () => {
    const subject = memberSubject(workspaceId, actorId, Role.ADMIN)
    expect(await create(subject, "moderation")).toBe("CALLER_NOT_ALLOWED")
    expect(handled).toBe(0)
  })

  test("is refused to the gateway on its own behalf, and to an operator", async () => {
    expect(await create(serviceSubject("gateway", workspaceId))).toBe("CALLER_NOT_ALLOWED")
    const operator: Subject = { kind: "operator", workspaceId, actorId, role: Role.UNSPECIFIED }
    expect(await create(operator)).toBe("CALLER_NOT_ALLOWED")
    expect(handled).toBe(0)
  })

  test("is refused where the token names another workspace than the request", async () => {
    expect(await create(memberSubject(newId(), actorId, Role.ADMIN))).toBe("WORKSPACE_MISMATCH")
    expect(await create(memberSubject("", actorId, Role.ADMIN))).toBe("WORKSPACE_MISMATCH")
    expect(handled).toBe(0)
  })
})

describe("an internal RPC", () => {
  test("is for the services that it names", async () => {
    expect(await record(serviceSubject("orchestrator", workspaceId), "orchestrator")).toBe(
      undefined,
    )
    expect(await record(serviceSubject("projects", workspaceId), "projects")).toBe(undefined)
    expect(handled).toBe(2)
  })

  test("is refused to a service that it does not name", async () => {
    expect(await record(serviceSubject("telemetry", workspaceId), "telemetry")).toBe(
      "CALLER_NOT_ALLOWED",
    )
    expect(handled).toBe(0)
  })
})

describe("the chain", () => {
  test("a request that breaks its rules names the field, after access was checked", async () => {
    const client = testClient(ProjectService, projects)
    const admin = actingAs(memberSubject(workspaceId, actorId, Role.ADMIN))
    const error = await client
      .createProject({ workspaceId, requestId: "no uuid", name: "x" }, admin)
      .catch((caught: unknown) => caught)
    expect(reasonOf(error)).toBe("INVALID_REQUEST")
    expect(String(error)).toContain("request_id")
    const viewer = actingAs(memberSubject(workspaceId, actorId, Role.VIEWER))
    const denied = await client
      .createProject({ workspaceId, requestId: "no uuid", name: "x" }, viewer)
      .catch(reasonOf)
    expect(denied).toBe("ROLE_TOO_LOW")
    expect(handled).toBe(0)
  })

  test("what throws at once leaves no deadline behind that would end the process", async () => {
    const unheard: unknown[] = []
    const hear = (reason: unknown) => unheard.push(reason)
    process.on("unhandledRejection", hear)
    const call = compose(outerInterceptors(testRuntime("projects")), () => {
      throw new RunwardenError("MALFORMED_REQUEST", { cause: "it is broken" })
    })
    const { listProjects } = ProjectService.method
    const contextValues = createContextValues().set(deadlineKey, performance.now() + 20)
    const signal = new AbortController().signal
    const arrived = { signal, header: new Headers(), contextValues, url: "test:" }
    const message = createMessage(listProjects.input)
    await expect(call(unaryRequest(listProjects, message, arrived))).rejects.toSatisfy(
      (error) => reasonOf(error) === "MALFORMED_REQUEST",
    )
    await new Promise((resolve) => setTimeout(resolve, 60))
    process.off("unhandledRejection", hear)
    expect(unheard).toEqual([])
  })

  test("a call that does not say for whom it is made does not leave", async () => {
    await expect(
      testClient(ProjectService, projects).listProjects({ workspaceId }),
    ).rejects.toSatisfy((error) => reasonOf(error) === "INTERNAL")
    expect(handled).toBe(0)
  })

  test("every RPC of the contract has an access rule, and one without is refused at start", () => {
    expect(() => requireAccessRules([ProjectService, EventService])).not.toThrow()
    const { createProject } = ProjectService.method
    const bare = { ...createProject, proto: { ...createProject.proto, options: undefined } }
    expect(() => accessRuleOf(bare as never)).toThrow("no access rule")
  })
})
