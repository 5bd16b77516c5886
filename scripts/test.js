// npm test: installs what is missing and runs the tests, all or those that the arguments name.
import { runNode, setUp } from "./setup.js"

await setUp()
process.exitCode = await runNode([
  "node_modules/vitest/vitest.mjs",
  "run",
  ...process.argv.slice(2),
])
