import type {
  DescriptorProto,
  EnumDescriptorProto,
  FieldDescriptorProto,
  FileDescriptorProto,
} from "@bufbuild/protobuf/wkt"
import {
  FieldDescriptorProto_Label as Label,
  FieldDescriptorProto_Type as Type,
} from "@bufbuild/protobuf/wkt"

const scalarNames = new Map<number, string>([
  [Type.DOUBLE, "double"],
  [Type.FLOAT, "float"],
  [Type.INT64, "int64"],
  [Type.UINT64, "uint64"],
  [Type.INT32, "int32"],
  [Type.FIXED64, "fixed64"],
  [Type.FIXED32, "fixed32"],
  [Type.BOOL, "bool"],
  [Type.STRING, "string"],
  [Type.BYTES, "bytes"],
  [Type.UINT32, "uint32"],
  [Type.SFIXED32, "sfixed32"],
  [Type.SFIXED64, "sfixed64"],
  [Type.SINT32, "sint32"],
  [Type.SINT64, "sint64"],
])

/**
 * Prints a proto2 file descriptor as `.proto` source that a compiler reads back to the same
 * messages, fields, enums and extensions. Comments and custom options are not in a descriptor that
 * was loaded from JavaScript and are left out; maps and groups are not supported.
 */
export function printProtoFile(file: FileDescriptorProto): string {
  const lines = [`syntax = "proto2";`, `package ${file.package};`]
  for (const dependency of file.dependency) lines.push(`import "${dependency}";`)
  for (const message of file.messageType) lines.push(...printMessage(message))
  for (const enumeration of file.enumType) lines.push(...printEnum(enumeration))
  for (const extension of file.extension) {
    lines.push(`extend ${extension.extendee} {`, `  ${printField(extension)}`, "}")
  }
  return `${lines.join("\n")}\n`
}

function printMessage(message: DescriptorProto): string[] {
  const body: string[] = []
  for (const nested of message.nestedType) body.push(...printMessage(nested))
  for (const enumeration of message.enumType) body.push(...printEnum(enumeration))
  for (const [index, oneof] of message.oneofDecl.entries()) {
    const members = message.field.filter((field) => hasOneof(field) && field.oneofIndex === index)
    body.push(
      `oneof ${oneof.name} {`,
      ...members.map((field) => `  ${printField(field, true)}`),
      "}",
    )
  }
  for (const field of message.field) if (!hasOneof(field)) body.push(printField(field))
  for (const range of message.extensionRange) {
    body.push(`extensions ${range.start} to ${range.end > 0x1fffffff ? "max" : range.end - 1};`)
  }
  for (const range of message.reservedRange) {
    body.push(`reserved ${range.start} to ${range.end - 1};`)
  }
  for (const name of message.reservedName) body.push(`reserved "${name}";`)
  return [`message ${message.name} {`, ...body.map((line) => `  ${line}`), "}"]
}

function hasOneof(field: FieldDescriptorProto): boolean {
  return Object.hasOwn(field, "oneofIndex")
}

function printEnum(enumeration: EnumDescriptorProto): string[] {
  const aliases = enumeration.options?.allowAlias ? ["  option allow_alias = true;"] : []
  const values = enumeration.value.map((value) => `  ${value.name} = ${value.number};`)
  return [`enum ${enumeration.name} {`, ...aliases, ...values, "}"]
}

function printField(field: FieldDescriptorProto, inOneof = false): string {
  const label = field.label === Label.REPEATED ? "repeated " : inOneof ? "" : "optional "
  const type = scalarNames.get(field.type) ?? field.typeName
  return `${label}${type} ${field.name} = ${field.number};`
}
