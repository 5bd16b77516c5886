/**
 * The whole mesh on this machine, with one command: an embedded PostgreSQL, all seven services, a
 * demo workspace, and a few real runs. Serves until Ctrl-C; started again, it finds its data.
 */
import path from "node:path"
import { parseArgs } from "node:util"
import { dataFolderFor } from "../../mesh/embedded-postgres.ts"
import { SchemaError } from "../../mesh/migrations.ts"
import { runLocal } from "./local.ts"
import { providerEnvironment, readLocalKeys } from "./local-keys.ts"

const help = `npm start [-- options]

Starts Runwarden on this machine: PostgreSQL, all services, a demo workspace, and a few runs to look at.

  --reset         delete the data of this checkout first, and begin anew
  --port <n>      port of the gateway (default 7100; 0 takes a free one)
  --provider-env  print what a provider of your own needs in its environment, and end
  --help          show this

Environment: RUNWARDEN_PROVIDERS adds providers of tools, as in orders=127.0.0.1:7201 (docs/tools.md);
DATABASE_URL uses another PostgreSQL (a superuser's URL) in place of the embedded one;
OTEL_EXPORTER_OTLP_ENDPOINT sends traces to a collector; every setting of a service, such as
TELEMETRY_* or ORCHESTRATOR_*, works here as well.
`

const checkout = path.resolve(import.meta.dirname, "../..")

try {
  const { values } = parseArgs({
    options: {
      reset: { type: "boolean", default: false },
      port: { type: "string", default: process.env.RUNWARDEN_PORT ?? "7100" },
      "provider-env": { type: "boolean", default: false },
      help: { type: "boolean", default: false },
    },
  })
  if (values.help) {
    process.stdout.write(help)
  } else if (values["provider-env"]) {
    const keys = readLocalKeys(dataFolderFor(checkout))
    process.stdout.write(`${providerEnvironment(keys)}\n`)
  } else if (!/^\d{1,5}$/.test(values.port) || Number(values.port) > 65_535) {
    throw new Error(`--port must be a number from 0 to 65535, not "${values.port}"`)
  } else {
    await runLocal({
      checkout,
      env: process.env,
      port: Number(values.port),
      isReset: values.reset,
      print: (line) => process.stdout.write(`${line}\n`),
    })
  }
} catch (error) {
  process.stderr.write(`\n${error instanceof Error ? error.message : String(error)}\n`)
  if (error instanceof SchemaError) {
    process.stderr.write("Demo data of an older version? `npm start -- --reset` begins anew.\n")
  }
  process.exitCode = 1
}
