/** A cluster whose one provider is the shop, with the set's records in a workspace that nobody uses. */
import { type Connection, connect, type DatabaseConfig, openDatabase } from "../../mesh/database.ts"
import { newId } from "../../mesh/ids.ts"
import { encodeTrustedKeys } from "../../mesh/keys.ts"
import { goOn } from "../../mesh/kill-points.ts"
import { derivedPasswords, provisionDatabases } from "../../mesh/provision-databases.ts"
import { testKeys } from "../../mesh/testing.ts"
import { type Cluster, databaseEnv, startCluster } from "../adversity/cluster.ts"
import type { MutationName } from "../adversity/mutations.ts"
import { type ProcessSpec, SupervisedProcess } from "../adversity/supervised-process.ts"
import { retailMigrations, retailName, retailRuntime } from "./provider.ts"
import { fillShop, type ShopData } from "./shop-data.ts"

export interface RetailCluster extends AsyncDisposable {
  readonly cluster: Cluster
  /** A superuser's, to the shops' database. */
  readonly admin: Connection
  readonly pristineId: string
  /** Has the shop served by a process without these guards from now on. */
  replaceProvider(mutations: readonly MutationName[]): Promise<SupervisedProcess>
}

export async function startRetailCluster(shop: ShopData): Promise<RetailCluster> {
  await using stack = new AsyncDisposableStack()
  const offered = Promise.withResolvers<{ spec: ProcessSpec; config: DatabaseConfig }>()
  const provider = async (listen: string, adminUrl: string): Promise<ProcessSpec> => {
    const passwordOf = derivedPasswords("retail")
    const { [retailName]: config } = await provisionDatabases(adminUrl, [retailName], {
      passwordOf,
    })
    const spec = {
      name: retailName,
      script: "../retail/retail-process.ts",
      args: [listen],
      env: {
        RUNWARDEN_TRUSTED_KEYS: encodeTrustedKeys(testKeys.trusted),
        ...databaseEnv("RETAIL", config),
      },
    }
    offered.resolve({ spec, config })
    return spec
  }
  const cluster = stack.use(await startCluster({ isDurable: false, provider }))
  const { spec, config } = await offered.promise
  const pristineId = await openShop(config, shop)
  const admin = stack.use(await connect(cluster.postgres.adminUrl, { database: retailName }))
  const owned = stack.move()
  return {
    ...{ cluster, admin, pristineId },
    async replaceProvider(mutations) {
      await cluster.provider.stop()
      const other = owned.use(
        new SupervisedProcess({ ...spec, args: [...spec.args, ...mutations] }),
      )
      other.start()
      return other
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  }
}

/** Fills the shop of a new workspace. */
async function openShop(config: DatabaseConfig, shop: ShopData): Promise<string> {
  const runtime = retailRuntime(testKeys.trusted, goOn)
  await using database = openDatabase(config, { runtime, migrations: retailMigrations })
  await database.migrate()
  const workspaceId = newId()
  await database.tenant(workspaceId, (tx) => fillShop(tx, shop))
  return workspaceId
}
