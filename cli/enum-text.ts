import type { DescEnum } from "@bufbuild/protobuf"
import { Option } from "commander"

/** The name of a value as people write it: `on_hold`; `unknown` for one that is not known. */
export function enumText(desc: DescEnum, value: number): string {
  const name = desc.value[value]?.localName
  return name === undefined || value === 0 ? "unknown" : name.toLowerCase()
}

/** The names of an enum's values, without the unspecified one. */
export function enumNames(desc: DescEnum): readonly string[] {
  return desc.values.filter(({ number }) => number !== 0).map((one) => one.localName.toLowerCase())
}

/** The value of a name that an option has checked. */
export function enumValue<Value extends number>(desc: DescEnum, name: string): Value {
  return (desc.values.find((one) => one.localName.toLowerCase() === name)?.number ?? 0) as Value
}

/** An option that takes one of an enum's names. */
export function enumOption(flags: string, description: string, desc: DescEnum): Option {
  return new Option(flags, description).choices(enumNames(desc))
}

/** An option that takes several. */
export function enumsOption(flags: string, description: string, desc: DescEnum): Option {
  const option = enumOption(flags, description, desc)
  const one = option.parseArg
  return option.argParser<string[]>((text, before = []) => {
    one?.(text, undefined as never)
    return [...before, text]
  })
}
