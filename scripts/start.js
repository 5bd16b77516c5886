// npm start: installs what is missing and runs the whole mesh in one process, on our own Node.
import { runNode, setUp } from "./setup.js"

await setUp()
process.exitCode = await runNode(["services/local/main.ts", ...process.argv.slice(2)])
