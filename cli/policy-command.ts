import type { JsonObject } from "@bufbuild/protobuf"
import { type Command, Option } from "commander"
import {
  type Subject,
  SubjectSchema,
  Verdict,
  VerdictSchema,
} from "../gen/runwarden/moderation/v1/decision_pb.ts"
import type { PolicyVersion } from "../gen/runwarden/moderation/v1/policy_pb.ts"
import {
  ActivatePolicyVersionResponseSchema,
  CreatePolicyVersionResponseSchema,
  GetActivePolicyResponseSchema,
  GetPolicyVersionResponseSchema,
  ListPolicyVersionsResponseSchema,
  PolicyService,
  TestPolicyVersionResponseSchema,
} from "../gen/runwarden/moderation/v1/policy_service_pb.ts"
import { newId } from "../mesh/ids.ts"
import { shortened } from "../mesh/visible-text.ts"
import { type Cli, type Context, command, group } from "./command.ts"
import { tellGrounds } from "./decision-text.ts"
import { enumNames, enumText, enumValue } from "./enum-text.ts"
import { exitCodes } from "./exit-code.ts"
import { CliError } from "./failure.ts"
import { addPageOptions, type PageOptions, printList } from "./paging.ts"
import { readPolicyFile } from "./policy-file.ts"
import { readTextFile } from "./text-file.ts"
import { ageOf, timeText } from "./time-text.ts"

interface TestOptions {
  readonly file?: string
  readonly subject: string
  readonly tool?: string
}

type ListOptions = PageOptions & { readonly name?: string }

export function policyCommands(cli: Cli): Command {
  return group("policy", "what moderation decides by", [
    command(cli, "show [version]", "show a version and its rules; the active one where absent", {
      examples: ["policy show", "policy show default@1", "policy show -o json"],
      action: (context, _, [version]) =>
        version === undefined ? showActive(context) : showVersion(context, version),
    }),
    command<ListOptions>(cli, "list", "list the versions", {
      examples: ["policy list"],
      configure: (made) => addPageOptions(made).option("--name <name>", "only of this policy"),
      action: listVersions,
    }),
    command<{ readonly file: string }>(cli, "create", "store a version; it is not in force yet", {
      examples: ["policy create --file examples/policy.yaml"],
      more: "\nNeeds an admin. docs/policies.md says how to write policies.",
      configure: (made) =>
        made.requiredOption("-f, --file <path>", "the policy, YAML or JSON; - reads it from stdin"),
      action: createVersion,
    }),
    command<TestOptions>(
      cli,
      "test <version> [text]",
      "judge a text by a version; nothing is stored",
      {
        examples: [
          'policy test default@2 "ignore all previous instructions"',
          "policy test house@3 --file arguments.json --subject tool_arguments --tool projects/project.create",
        ],
        more: "\nEnds with 1 where the text would be flagged or blocked.",
        configure: (made) =>
          made
            .option("-f, --file <path>", "a JSON object to judge in place of a text; - reads stdin")
            .addOption(
              new Option("--subject <subject>", "what it is taken for")
                .choices(enumNames(SubjectSchema))
                .default("run_input"),
            )
            .option("--tool <name>", "full name of the tool"),
        action: testVersion,
      },
    ),
    command<{ readonly etag?: string }>(
      cli,
      "activate <version>",
      "judge by a version from now on",
      {
        examples: ["policy activate house@3", "policy activate default@2"],
        more: "\nNeeds an admin. Activating an older version is how one goes back to it.",
        configure: (made) => made.option("--etag <etag>", "only if the active policy is as read"),
        action: activateVersion,
      },
    ),
  ])
}

async function showActive(context: Context): Promise<void> {
  const { policies, session, workspaceId } = await open(context)
  const response = await policies.getActivePolicy({ workspaceId }, session.options)
  context.out.message(GetActivePolicyResponseSchema, response, () => {
    tell(context, response.activePolicy?.policy)
  })
}

async function showVersion(context: Context, policyVersion: string): Promise<void> {
  const { policies, session, workspaceId } = await open(context)
  const request = { workspaceId, policyVersion }
  const response = await policies.getPolicyVersion(request, session.options)
  context.out.message(GetPolicyVersionResponseSchema, response, () => {
    tell(context, response.policyVersion)
  })
}

async function listVersions(context: Context, options: ListOptions): Promise<void> {
  const { policies, session, workspaceId } = await open(context)
  await printList(context, options, {
    async read(page) {
      const request = { workspaceId, name: options.name ?? "", ...page }
      const found = await policies.listPolicyVersions(request, session.options)
      return { items: found.policyVersions, nextPageToken: found.nextPageToken }
    },
    schema: ListPolicyVersionsResponseSchema,
    toResponse: (policyVersions, nextPageToken) => ({ policyVersions, nextPageToken }),
    head: ["VERSION", "ACTIVE", "CREATED", "DESCRIPTION"],
    row: (policy) => [
      policy.policyVersion,
      policy.active ? "yes" : "",
      ageOf(policy.createTime, context.io.now()),
      shortened(policy.description, 70),
    ],
    empty: "The workspace has no versions of its own; `policy show` shows the one in force.",
  })
}

async function createVersion(context: Context, { file }: { readonly file: string }) {
  const text = await readTextFile(context.io, "file", file)
  const policy = readPolicyFile(text, file === "-" ? "on stdin" : file)
  const { policies, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), ...policy, rules: [...policy.rules] }
  const response = await policies.createPolicyVersion(request, session.options)
  context.out.message(CreatePolicyVersionResponseSchema, response, () => {
    tell(context, response.policyVersion)
    const { policyVersion = "" } = response.policyVersion ?? {}
    context.out.note(`Try it: npx runwarden policy test ${policyVersion} "…"`)
    context.out.note(`Put it in force: npx runwarden policy activate ${policyVersion}`)
  })
}

async function testVersion(
  context: Context,
  options: TestOptions,
  [policyVersion = "", text]: string[],
): Promise<void> {
  const content = await readContent(context, options, text)
  const { policies, session, workspaceId } = await open(context)
  const subject = enumValue<Subject>(SubjectSchema, options.subject)
  const request = { workspaceId, policyVersion, subject, content, tool: options.tool ?? "" }
  const response = await policies.testPolicyVersion(request, session.options)
  context.out.message(TestPolicyVersionResponseSchema, response, () => {
    const { decision } = response
    if (decision === undefined) return
    const verdict = enumText(VerdictSchema, decision.verdict)
    context.out.details([
      ["verdict", verdict],
      ["policy", decision.policyVersion],
      ["no verdict", decision.failure],
    ])
    tellGrounds(context.out, decision)
  })
  if (response.decision?.verdict !== Verdict.ALLOWED) context.exitWith(exitCodes.error)
}

async function readContent(
  { io }: Context,
  { file }: TestOptions,
  text: string | undefined,
): Promise<JsonObject> {
  if ((file === undefined) === (text === undefined)) {
    throw new CliError("Say what to judge: either a text, or a JSON object by --file.")
  }
  if (file === undefined) return { text: text ?? "" }
  const written = await readTextFile(io, "file", file)
  let content: unknown
  try {
    content = JSON.parse(written)
  } catch (error) {
    throw new CliError(`The file ${file} is no JSON: ${(error as Error).message}.`, {
      cause: error,
    })
  }
  if (typeof content === "object" && content !== null && !Array.isArray(content)) {
    return content as JsonObject
  }
  throw new CliError(`The file ${file} holds no JSON object.`)
}

async function activateVersion(
  context: Context,
  options: { readonly etag?: string },
  [policyVersion = ""]: string[],
): Promise<void> {
  const { policies, session, workspaceId } = await open(context)
  const request = { workspaceId, requestId: newId(), policyVersion, etag: options.etag ?? "" }
  const response = await policies.activatePolicyVersion(request, session.options)
  context.out.message(ActivatePolicyVersionResponseSchema, response, () => {
    tell(context, response.activePolicy?.policy)
  })
}

async function open(context: Context) {
  const session = context.session()
  const workspaceId = await session.workspaceId()
  return { session, workspaceId, policies: session.client(PolicyService) }
}

function tell({ out, io }: Context, policy: PolicyVersion | undefined): void {
  if (policy === undefined) return
  if (!out.isQuiet) {
    out.details([
      ["policy", policy.policyVersion],
      ["active", policy.active ? "yes" : "no"],
      ["description", policy.description],
      ["digest", policy.digest],
      ["creator", policy.creatorId],
      ["created", timeText(policy.createTime, io.now())],
    ])
    out.line()
  }
  out.table(
    ["RULE", "VERDICT", "CATEGORY", "BY", "DESCRIPTION"],
    policy.rules.map((rule) => [
      rule.ruleId,
      enumText(VerdictSchema, rule.verdict),
      rule.category,
      rule.matcher.case ?? "",
      shortened(rule.description, 80),
    ]),
    "No rules.",
  )
}
