import { z } from "zod"

/** The environment as a process sees it; a plain object in tests. */
export type Environment = Readonly<Record<string, string | undefined>>

/** What is wrong with the environment, all of it at once. */
export class ConfigError extends Error {
  override readonly name = "ConfigError"
  readonly problems: readonly string[]

  constructor(problems: readonly string[]) {
    super(`The configuration cannot be used:\n${problems.map((p) => `  - ${p}`).join("\n")}`)
    this.problems = problems
  }
}

/**
 * Reads variables by a zod schema per name. An empty variable counts as unset. Throws one
 * ConfigError that names every variable with a problem.
 */
export function readEnv<Shape extends z.ZodRawShape>(
  shape: Shape,
  env: Environment,
): z.infer<z.ZodObject<Shape>> {
  const given = Object.fromEntries(
    Object.keys(shape).flatMap((name) => {
      const value = env[name]
      return value === undefined || value === "" ? [] : [[name, value]]
    }),
  )
  const result = z.object(shape).safeParse(given)
  if (result.success) return result.data
  throw new ConfigError(
    result.error.issues.map((issue) =>
      given[String(issue.path[0])] === undefined
        ? `${issue.path.join(".")} is required`
        : `${issue.path.join(".")}: ${issue.message}`,
    ),
  )
}

/** Runs several readers and throws one ConfigError with the problems of them all. */
export function readAll<Results extends readonly unknown[]>(
  ...readers: { readonly [Index in keyof Results]: () => Results[Index] }
): Results {
  const problems: string[] = []
  const results = readers.map((read) => {
    try {
      return read()
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error
      problems.push(...error.problems)
      return undefined
    }
  })
  if (problems.length > 0) throw new ConfigError(problems)
  return results as unknown as Results
}

/** A `host:port` to listen on; port 0 takes a free one. */
export const listenAddress = z
  .string()
  .regex(/^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$/, "must be host:port")

/** A gRPC target of a peer: `host:port`, or a resolver's URI such as `dns:///tools:7102`. */
export const peerAddress = z.string().regex(/^\S+:\d{1,5}$/, "must be host:port or a gRPC target")

/** A whole number of milliseconds, at least 1. */
export const milliseconds = z.coerce.number().int().positive()

/** A PostgreSQL connection URL with a user name. */
export const postgresUrl = z
  .string()
  .regex(/^postgres(ql)?:\/\/[^@/]+@/, "must be postgres://user:password@host:port/database")
