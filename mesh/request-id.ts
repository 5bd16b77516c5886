import {
  type DescMessage,
  type DescMethodUnary,
  fromBinary,
  type MessageShape,
  toBinary,
  toJson,
} from "@bufbuild/protobuf"
import { digestOf } from "./canonical.ts"
import type { Database, Tx } from "./database.ts"
import { type Reason, RunwardenError, reasonOf } from "./errors.ts"

/** A mutation that may be sent again. */
export interface RepeatableRequest {
  readonly workspaceId: string
  readonly requestId: string
}

/** How an answer is given once; `signal` ends the transaction early. */
export interface AnswerOptions<Response> {
  readonly signal?: AbortSignal
  /** What is kept for replays in place of the answer, for answers that hold a secret. */
  readonly keep?: (response: Response) => Response
}

/** What a request that may be sent again is recognised by. */
export interface RequestKey extends RepeatableRequest {
  /** Full name of the RPC. */
  readonly method: string
  /** SHA-256 (hex) of what the request says. */
  readonly sha256: string
}

interface StoredAnswer {
  readonly method: string
  readonly request_sha256: string
  readonly response: Uint8Array
}

/** For how long an answer is kept. A request id that is sent again later is a new request. */
export const keptDays = 30
/** One request in so many, by its id, takes old answers away with its own; so they shrink in number. */
const pruneEvery = 64
const prunedAtOnce = 256
const pruneLock = 7_401_926_555

/** After these nothing can be said about an earlier answer, or nobody listens any more. */
const unanswerable: ReadonlySet<Reason | undefined> = new Set<Reason>([
  "DEPENDENCY_UNAVAILABLE",
  "DEADLINE_EXCEEDED",
  "CANCELLED",
])

/**
 * Runs `work` in a transaction of the request's workspace and stores its answer in that same
 * transaction under the request's id. The same request again gets the stored answer, however many
 * arrive at once; another body or RPC under the id is REQUEST_ID_CONFLICT.
 *
 * A request that is new, which almost all are, costs one insert: a stored answer is looked for only
 * when `work` fails, as it does when it finds its own effect, or when the insert conflicts. Answers
 * are kept for 30 days.
 */
export async function answerOnce<Req extends DescMessage, Res extends DescMessage>(
  database: Database,
  method: DescMethodUnary<Req, Res>,
  request: MessageShape<Req> & RepeatableRequest,
  work: (tx: Tx) => Promise<MessageShape<Res>>,
  options: AnswerOptions<MessageShape<Res>> = {},
): Promise<MessageShape<Res>> {
  const key = requestKeyOf(method, request)
  const { workspaceId, requestId } = request
  const transaction = { name: method.name, ...(options.signal ? { signal: options.signal } : {}) }
  try {
    return await database.tenant(
      workspaceId,
      async (tx) => {
        const response = await work(tx)
        const kept = options.keep?.(response) ?? response
        await tx.query(
          `insert into requests (workspace_id, request_id, method, request_sha256, response)
           values ($1::uuid, $2::uuid, $3::text, $4::text, $5::bytea)`,
          [workspaceId, requestId, key.method, key.sha256, toBinary(method.output, kept)],
        )
        if (isPruner(requestId)) await prune(tx, workspaceId)
        return response
      },
      transaction,
    )
  } catch (error) {
    return fromBinary(method.output, await answerAfter(error, database, key, options.signal))
  }
}

/** The key of a request by all that it says. */
export function requestKeyOf<Req extends DescMessage>(
  method: DescMethodUnary<Req, DescMessage>,
  request: MessageShape<Req> & RepeatableRequest,
): RequestKey {
  return {
    workspaceId: request.workspaceId,
    requestId: request.requestId,
    method: `${method.parent.typeName}/${method.name}`,
    sha256: digestOf(toJson(method.input, request)),
  }
}

/**
 * The answer that was given to the request before, where that is why it fails now; else the error is
 * thrown again. Throws REQUEST_ID_CONFLICT where its id was given to something else.
 */
export async function answerAfter(
  error: unknown,
  database: Database,
  key: RequestKey,
  signal?: AbortSignal,
): Promise<Uint8Array> {
  if (unanswerable.has(reasonOf(error))) throw error
  const stored = await findAnswer(database, key, signal)
  if (stored === undefined) throw error
  if (stored.method !== key.method || stored.request_sha256 !== key.sha256) {
    const metadata = { request_id: key.requestId }
    throw new RunwardenError("REQUEST_ID_CONFLICT", metadata, { cause: error })
  }
  return stored.response
}

/**
 * Takes answers away that nobody will ask for any more: at few requests, by their ids, so that they
 * shrink in number. For those who store answers by statements of their own.
 */
export async function pruneAnswers(
  database: Database,
  { workspaceId, requestId }: RepeatableRequest,
): Promise<void> {
  if (!isPruner(requestId)) return
  await database.tenant(workspaceId, (tx) => prune(tx, workspaceId), { name: "pruneAnswers" })
}

function isPruner(requestId: string): boolean {
  return Number.parseInt(requestId.slice(-2), 16) % pruneEvery === 0
}

/** Never waits: while another request prunes the workspace, that is left to it. */
async function prune(tx: Tx, workspaceId: string): Promise<void> {
  await tx.query(
    `delete from requests where workspace_id = $1::uuid and request_id = any (array(
       select request_id from requests
       where workspace_id = $1::uuid and create_time < now() - make_interval(days => $2::int)
         and (select pg_try_advisory_xact_lock(hashtextextended($1::text, $4::bigint)))
       order by create_time limit $3::int))`,
    [workspaceId, keptDays, prunedAtOnce, pruneLock],
  )
}

function findAnswer(
  database: Database,
  { workspaceId, requestId }: RepeatableRequest,
  signal: AbortSignal | undefined,
): Promise<StoredAnswer | undefined> {
  return database.tenant(
    workspaceId,
    (tx) =>
      tx.maybe<StoredAnswer>(
        `select method, request_sha256, response from requests
         where workspace_id = $1::uuid and request_id = $2::uuid`,
        [workspaceId, requestId],
      ),
    { name: "findAnswer", ...(signal ? { signal } : {}) },
  )
}
