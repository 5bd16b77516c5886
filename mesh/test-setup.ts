import { startTestServer, testRunVariable, testServerVariable } from "./test-database.ts"

/** Runs once, before all test files; workers find the server by their environment. */
export async function setup(): Promise<() => Promise<void>> {
  const server = await startTestServer(process.env.DATABASE_URL)
  process.env[testServerVariable] = server.url
  process.env[testRunVariable] = server.run
  return async () => {
    await server[Symbol.asyncDispose]()
  }
}
