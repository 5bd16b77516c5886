/**
 * JSON Schemas of tools, compiled by Ajv: which are taken, and what they find.
 *
 * limits.ts     what a schema may look like; dialect.ts: the drafts
 * keywords.ts   keywords whose cost depends on the value; value.ts: how values compare
 * pattern.ts    patterns, by RE2; pattern-text.ts: as RE2 writes them; format.ts: formats
 * meter.ts      what one check may cost
 */
import type { JsonObject, JsonValue } from "@bufbuild/protobuf"
import { Ajv, type ErrorObject, type Options, type ValidateFunction } from "ajv"
import { Ajv2020 } from "ajv/dist/2020.js"
import draft6 from "ajv/dist/refs/json-schema-draft-06.json" with { type: "json" }
import type { Dialect } from "./dialect.ts"
import { formatsOf } from "./format.ts"
import { replaceKeywords } from "./keywords.ts"
import { prepareSchema, type Reading } from "./limits.ts"
import { maxSteps, maxStepsToExplain, OverBudget, SchemaMeter } from "./meter.ts"
import { createPatternBook } from "./pattern.ts"
import { SchemaRefusal } from "./refusal.ts"

/** One place where a value breaks its schema. */
export interface SchemaFault {
  /** JSON pointer into the value; empty for the value itself. */
  readonly pointer: string
  readonly description: string
}

/** Finds what is wrong with a value; nothing where it fits. */
export type SchemaCheck = (value: JsonValue) => readonly SchemaFault[]

const maxFaults = 50
const noFaults: readonly SchemaFault[] = []
const overBudget: readonly SchemaFault[] = [
  { pointer: "", description: "takes too many steps to check against the schema" },
]

/** Why a schema of a tool cannot be used, or undefined. */
export function faultIn(schema: JsonObject): string | undefined {
  if (schema.type !== "object") return 'The schema is not of an object: "type" must be "object".'
  try {
    const check = readSchema(schema, { strict: true })
    return check({}) === overBudget ? "No value can be checked against the schema." : undefined
  } catch (error) {
    if (error instanceof SchemaRefusal) return error.message
    throw error
  }
}

/** The check of a schema of a tool without a fault. Compiling takes milliseconds: keep it. */
export function compileSchema(schema: JsonObject): SchemaCheck {
  return readSchema(schema, { strict: true })
}

/** The check of any schema. Throws SchemaRefusal, which says why, for one that cannot be used. */
export function readSchema(sent: JsonValue, reading: Reading): SchemaCheck {
  const { dialect, schema } = prepareSchema(sent, reading)
  requireForm(dialect, schema)
  const meter = new SchemaMeter()
  const decide = compile(dialect, schema, meter, { allErrors: false })
  let explain: ValidateFunction | undefined
  return (value) => {
    meter.restart(maxSteps)
    const decided = run(decide, value)
    if (decided === undefined) return overBudget
    if (decided.length === 0) return noFaults
    explain ??= compile(dialect, schema, meter, { allErrors: true })
    meter.restart(maxStepsToExplain)
    return run(explain, value) ?? decided
  }
}

/** What is wrong with a value; undefined where that takes too many steps. */
function run(validate: ValidateFunction, value: JsonValue): readonly SchemaFault[] | undefined {
  try {
    return validate(value) ? noFaults : faultsOf(validate.errors ?? [])
  } catch (error) {
    // A value may also be nested deeper than the stack allows a recursive schema to follow.
    if (error instanceof OverBudget || error instanceof RangeError) return undefined
    throw error
  } finally {
    validate.errors = null
  }
}

const shared: Options = { strict: false, logger: false, validateFormats: false }

/** They validate schemas, and never see one that they would have to keep. */
const metaschemas: Partial<Record<Dialect["draft"], Ajv>> = {}

function requireForm({ draft }: Dialect, schema: JsonValue): void {
  if (typeof schema === "boolean") return
  metaschemas[draft] ??= metaschemaOf(draft)
  const ajv = metaschemas[draft]
  if (ajv.validateSchema(schema as JsonObject) === true) return
  const [fault] = ajv.errors ?? []
  throw new SchemaRefusal(`#${fault?.instancePath ?? ""} ${fault?.message ?? "is no schema"}.`)
}

function metaschemaOf(draft: Dialect["draft"]): Ajv {
  if (draft === "2020-12") return new Ajv2020(shared)
  return draft === "6" ? new Ajv({ ...shared, meta: false }).addMetaSchema(draft6) : new Ajv(shared)
}

/** A compiler of its own for each schema: one that is shared keeps every schema it ever saw. */
function compile(
  { draft }: Dialect,
  schema: JsonValue,
  meter: SchemaMeter,
  { allErrors }: { readonly allErrors: boolean },
): ValidateFunction {
  const patterns = createPatternBook(meter)
  const options: Options = {
    ...shared,
    allErrors,
    validateFormats: true,
    formats: formatsOf(meter),
    ownProperties: true,
    meta: false,
    validateSchema: false,
    addUsedSchema: false,
    inlineRefs: false,
    $comment: (cost) => meter.spend(Number(cost)),
    code: { regExp: Object.assign(patterns.read, { code: "linearRegExp" }) },
  }
  const ajv = draft === "2020-12" ? new Ajv2020(options) : new Ajv(options)
  replaceKeywords(ajv, meter)
  try {
    return ajv.compile(schema as JsonObject | boolean)
  } catch (error) {
    if (error instanceof SchemaRefusal) throw error
    const why = error instanceof Error ? error.message.slice(0, 300) : "unknown fault"
    throw new SchemaRefusal(`The schema does not compile: ${why}.`)
  }
}

function faultsOf(errors: readonly ErrorObject[]): readonly SchemaFault[] {
  return errors.slice(0, maxFaults).map(({ instancePath, message, params }) => ({
    pointer: instancePath,
    description: describe(message ?? "is invalid", params),
  }))
}

/** Ajv's message, with the name or values that it leaves to the parameters. */
function describe(message: string, params: ErrorObject["params"]): string {
  const { additionalProperty, unevaluatedProperty } = params
  const name: unknown = additionalProperty ?? unevaluatedProperty
  return typeof name === "string" ? `${message}: ${JSON.stringify(name).slice(0, 100)}` : message
}
