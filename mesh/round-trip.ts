/**
 * Owns: one round trip to Postgres, in which several statements are sent in one write and answered
 * in one piece. The last of them is the statement; those before it prepare its ground, and their
 * answers are read over.
 *
 * 1. One Sync ends the round trip. Without a `begin` in it, Postgres takes all of it as one
 *    transaction, which it commits at the Sync or, after an error, rolls back.
 * 2. A named statement is parsed once per connection and described once, for some seconds. After an
 *    error nothing counts as parsed that this round trip wanted parsed: a Close goes before a Parse,
 *    since closing what is not there is no error.
 * 3. Parameters that cannot be sent are refused before anything is sent.
 */
import type pg from "pg"
import { isStalePlan } from "./database-errors.ts"
import { getTypeParser } from "./database-pool.ts"
import { toSqlValue } from "./sql-values.ts"

/** A statement with its parameters; one that has a name is prepared on first use. */
export interface Step {
  readonly name?: string
  readonly text: string
  readonly values: readonly unknown[]
}

/** What is known of a round trip that failed: whether its statement may have had its effect. */
export interface Progress {
  /** `unsent`: nothing left this process. `sent`: an error that Postgres reports has undone it. */
  state: "unsent" | "sent" | "completed"
}

interface Message {
  readonly name: string
  readonly text: string
  readonly values: readonly (string | Buffer | null)[]
}

type TypeParser = (text: string) => unknown

interface Column {
  readonly name: string
  readonly parse: TypeParser
}

/** A statement as a connection has it; its columns are known when it has been answered once. */
interface PreparedStatement {
  readonly parseTime: number
  columns: readonly Column[] | undefined
}

type Prepared = Map<string, PreparedStatement>

/**
 * The plan of a prepared statement is kept, and was right for the tables of its time: for as long as
 * nobody analyzes them, Postgres would not notice that they have grown a thousandfold.
 */
const maxPlanAgeMs = 10_000

const preparedByConnection = new WeakMap<pg.Connection, Prepared>()

/** Sends the steps and resolves to the rows of the last one. */
export function roundTrip<Row>(
  client: pg.ClientBase,
  steps: readonly Step[],
  progress: Progress = { state: "unsent" },
): Promise<readonly Row[]> {
  return new Promise((resolve, reject) => {
    const messages = steps.map(({ name = "", text, values }) => {
      return { name, text, values: values.map(toSqlValue) }
    })
    const callback = (error: unknown, rows: readonly Row[] = []) =>
      error === null ? resolve(rows) : reject(error)
    client.query(new RoundTrip<Row>(messages, progress, callback))
  })
}

/** What `pg` calls as the answer comes in. `callback` is replaced by `pg` when it sets a timeout. */
class RoundTrip<Row> implements pg.Submittable {
  callback: (error: unknown, rows?: readonly Row[]) => void
  readonly #messages: readonly Message[]
  readonly #progress: Progress
  readonly #rows: Row[] = []
  readonly #parsing: string[] = []
  readonly #now = performance.now()
  #prepared: Prepared = new Map()
  #statement: PreparedStatement | undefined
  #columns: readonly Column[] = []
  #toComplete: number
  #error: unknown = null

  constructor(
    messages: readonly Message[],
    progress: Progress,
    callback: (error: unknown, rows?: readonly Row[]) => void,
  ) {
    this.#messages = messages
    this.#progress = progress
    this.callback = callback
    this.#toComplete = messages.length
  }

  submit(connection: pg.Connection): null {
    const wire = connection as unknown as Wire
    this.#prepared = preparedOf(connection)
    this.#progress.state = "sent"
    connection.stream.cork()
    this.#messages.forEach((message, index) => {
      this.#send(wire, message, index === this.#messages.length - 1)
    })
    connection.sync()
    connection.stream.uncork()
    return null
  }

  #send(wire: Wire, { name, text, values }: Message, isLast: boolean): void {
    let prepared = this.#prepared.get(name)
    if (prepared === undefined || this.#now - prepared.parseTime > maxPlanAgeMs) {
      prepared = { parseTime: this.#now, columns: undefined }
      if (name !== "") {
        wire.close({ type: "S", name })
        this.#parsing.push(name)
        this.#prepared.set(name, prepared)
      }
      wire.parse({ name, text })
    }
    wire.bind({ statement: name, values })
    if (isLast) {
      this.#statement = prepared
      if (prepared.columns === undefined) wire.describe({ type: "P" })
      else this.#columns = prepared.columns
    }
    wire.execute({})
  }

  handleRowDescription(message: { readonly fields: readonly pg.FieldDef[] }): void {
    this.#columns = message.fields.map((field) => ({
      name: field.name,
      parse: getTypeParser(field.dataTypeID),
    }))
  }

  handleDataRow(message: { readonly fields: readonly (string | null)[] }): void {
    if (this.#toComplete > 1 || this.#error !== null) return
    const row: Record<string, unknown> = {}
    try {
      for (let i = 0; i < this.#columns.length; i++) {
        const column = this.#columns[i] as Column
        const text = message.fields[i]
        row[column.name] = text === null || text === undefined ? null : column.parse(text)
      }
      this.#rows.push(row as Row)
    } catch (error) {
      this.#error = error
    }
  }

  handleCommandComplete(): void {
    if (--this.#toComplete === 0) this.#progress.state = "completed"
  }

  handleEmptyQuery(): void {
    this.handleCommandComplete()
  }

  handleReadyForQuery(): void {
    if (this.#statement !== undefined) this.#statement.columns = this.#columns
    this.callback(this.#error, this.#rows)
  }

  handleError(error: unknown): void {
    for (const name of isStalePlan(error) ? this.#prepared.keys() : this.#parsing) {
      this.#prepared.delete(name)
    }
    this.callback(this.#error ?? error)
  }

  handleCopyInResponse(connection: { sendCopyFail(message: string): void }): void {
    connection.sendCopyFail("copying is not supported")
  }

  handleCopyData(): void {}

  handlePortalSuspended(): void {}
}

/** The messages of the protocol as `pg` sends them; its published types are those of an old version. */
interface Wire {
  parse(message: { readonly name: string; readonly text: string }): void
  bind(message: {
    readonly statement: string
    readonly values: readonly (string | Buffer | null)[]
  }): void
  describe(message: { readonly type: "P" }): void
  execute(message: object): void
  close(message: { readonly type: "S"; readonly name: string }): void
}

function preparedOf(connection: pg.Connection): Prepared {
  const known = preparedByConnection.get(connection)
  if (known !== undefined) return known
  const prepared: Prepared = new Map()
  preparedByConnection.set(connection, prepared)
  return prepared
}
