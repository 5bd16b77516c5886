import type { JsonObject } from "@bufbuild/protobuf"
import type { ErrorObject, ValidateFunction } from "ajv"
import { Ajv2020 } from "ajv/dist/2020.js"
import formats from "ajv-formats"
import { RE2JS } from "re2js"
import { faultOfSchema } from "./schema-limits.ts"

/** One place where a value breaks its schema. */
export interface SchemaFault {
  /** JSON pointer into the value; empty for the value itself. */
  readonly pointer: string
  readonly description: string
}

/** Finds what is wrong with a value; nothing where it fits. */
export type SchemaCheck = (value: JsonObject) => readonly SchemaFault[]

const maxFaults = 50
const noFaults: readonly SchemaFault[] = []

/** Why a schema cannot be used, or undefined. */
export function faultIn(schema: JsonObject): string | undefined {
  const fault = faultOfSchema(schema)
  if (fault !== undefined) return fault
  try {
    compile(schema)({})
    return undefined
  } catch (error) {
    return `The schema does not compile: ${messageOf(error)}.`
  }
}

/** The check of a schema without a fault. Compiling takes milliseconds: keep what comes of it. */
export function compileSchema(schema: JsonObject): SchemaCheck {
  const validate = compile(schema)
  return (value) => (validate(value) ? noFaults : faultsOf(validate.errors ?? []))
}

/** A compiler of its own for each schema: one that is shared keeps every schema it ever saw. */
function compile(schema: JsonObject): ValidateFunction {
  const ajv = new Ajv2020({
    allErrors: true,
    strictSchema: true,
    strictTypes: false,
    strictTuples: false,
    strictRequired: false,
    validateFormats: true,
    ownProperties: true,
    addUsedSchema: false,
    logger: false,
    code: { regExp: linearRegExp },
  })
  formats.default(ajv)
  return ajv.compile(schema)
}

/** Providers write patterns and users the text: RE2 takes a time that grows with the text alone. */
const linearRegExp = Object.assign((pattern: string) => new LinearPattern(pattern), {
  code: "linearRegExp",
})

class LinearPattern {
  readonly #pattern: string
  readonly #expression: RE2JS

  constructor(pattern: string) {
    this.#pattern = pattern
    this.#expression = RE2JS.compile(pattern)
  }

  test(text: string): boolean {
    return this.#expression.test(text)
  }

  /** Ajv shares patterns by this text: two that had the same would be one. */
  toString(): string {
    return this.#pattern
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
  const { additionalProperty, unevaluatedProperty, allowedValues } = params
  const name: unknown = additionalProperty ?? unevaluatedProperty
  if (typeof name === "string") return `${message}: ${JSON.stringify(name).slice(0, 100)}`
  if (Array.isArray(allowedValues)) {
    return `${message}: ${allowedValues
      .map((one) => JSON.stringify(one))
      .join(", ")
      .slice(0, 300)}`
  }
  return message
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message.slice(0, 300) : "unknown fault"
}
