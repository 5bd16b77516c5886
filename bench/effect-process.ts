/** One bench provider as a process of its own: serves until SIGTERM, or until its parent has gone. */
import { createGrpcServer } from "../mesh/grpc-server.ts"
import { trustedKeysSetting } from "../mesh/keys.ts"
import { aborted, untilSignal } from "../mesh/lifecycle.ts"
import { createEffectProvider, type Grouping } from "./effect-provider.ts"

const { env } = process
const trusted = trustedKeysSetting.parse(env.RUNWARDEN_TRUSTED_KEYS)

await untilSignal(async (signal) => {
  const provider = createEffectProvider(
    env.BENCH_GROUPING as Grouping,
    String(env.BENCH_EFFECTS_URL),
    trusted,
  )
  await using stack = new AsyncDisposableStack()
  stack.use(provider.service)
  const server = stack.use(
    createGrpcServer(
      { routes: provider.service.routes, runtime: provider.runtime },
      { listen: String(env.BENCH_LISTEN) },
    ),
  )
  await server.start()
  await aborted(signal)
})
