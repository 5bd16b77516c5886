/** Every service of the contract, and the fields of its requests that hold ids. */
import { globSync } from "node:fs"
import path from "node:path"
import {
  type DescField,
  type DescMessage,
  type DescMethod,
  type DescService,
  getOption,
} from "@bufbuild/protobuf"
import { access, Exposure, IdKind, id_kind } from "../gen/runwarden/options/v1/access_pb.ts"

const root = path.resolve(import.meta.dirname, "..")

/** The services of `gen/runwarden`, found by their generated files. */
export async function loadServices(): Promise<readonly DescService[]> {
  const files = globSync("gen/runwarden/**/*_service_pb.ts", { cwd: root }).sort()
  const modules: object[] = await Promise.all(files.map((file) => import(path.join(root, file))))
  return modules.flatMap((module) =>
    Object.values(module).filter(
      (value: { kind?: string }): value is DescService => value?.kind === "service",
    ),
  )
}

/** The methods that members reach through the gateway. */
export function publicMethods(services: readonly DescService[]): readonly DescMethod[] {
  return services
    .flatMap((service) => service.methods)
    .filter((method) => getOption(method, access).exposure === Exposure.PUBLIC)
}

/** `Service/Method`, short. */
export function shortName(method: DescMethod): string {
  return `${method.parent.name}/${method.name}`
}

/** A field that holds an id, and the way to it through nested messages. */
export interface IdField {
  readonly path: readonly DescField[]
  readonly kind: IdKind
}

/** Every field of a message, nested ones included, that is marked as an id. */
export function idFields(message: DescMessage, above: readonly DescField[] = []): IdField[] {
  if (above.length > 5) return []
  return message.fields.flatMap((field): IdField[] => {
    const way = [...above, field]
    const kind = getOption(field, id_kind)
    if (kind !== IdKind.UNSPECIFIED) return [{ path: way, kind }]
    if (field.fieldKind === "message" && !field.message.typeName.startsWith("google.")) {
      return idFields(field.message, way)
    }
    if (field.fieldKind === "list" && field.listKind === "message") {
      return field.message.typeName.startsWith("google.") ? [] : idFields(field.message, way)
    }
    return []
  })
}

/** Fields that are called like ids and are not marked as such. */
export function unmarkedIds(message: DescMessage): string[] {
  return message.fields
    .filter((field) => /(^|_)ids?$/.test(field.name))
    .filter((field) => getOption(field, id_kind) === IdKind.UNSPECIFIED)
    .map((field) => `${message.typeName}.${field.name}`)
}

/** The way to a field as errors name it, such as `citation.document_id`. */
export function fieldName(field: IdField): string {
  return field.path.map((step) => step.name).join(".")
}
