/**
 * An endpoint that speaks OpenAI's embeddings API over HTTP, for tests: texts about the same things get
 * vectors that lie near each other, and it can be told to misbehave.
 */
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { text as readAll } from "node:stream/consumers"

export type Fault = "status" | "garbage" | "short" | "missing" | "shuffled" | "silent" | "flood"

export interface EndpointDouble extends AsyncDisposable {
  readonly url: string
  /** Bodies of the requests, oldest first. */
  readonly requests: { readonly authorization: string | undefined; readonly input: string[] }[]
  fault: Fault | undefined
}

export const testDimensions = 384

const meanings: readonly (readonly string[])[] = [
  ["car", "automobile", "vehicle"],
  ["doctor", "physician"],
  ["sofa", "couch"],
]

export async function startEndpoint(): Promise<EndpointDouble> {
  const requests: EndpointDouble["requests"] = []
  const server = createServer(async (request, response) => {
    const { input, dimensions } = JSON.parse(await readAll(request))
    requests.push({ authorization: request.headers.authorization, input })
    const data = (input as string[]).map((text, index) => {
      return { object: "embedding", index, embedding: vectorOf(text).slice(0, dimensions) }
    })
    if (double.fault === "silent") return
    if (double.fault === "status") response.statusCode = 503
    if (double.fault === "shuffled") data.reverse()
    if (double.fault === "missing") data.pop()
    if (double.fault === "short") data[0]?.embedding.pop()
    response.setHeader("content-type", "application/json")
    if (double.fault === "flood") response.write(" ".repeat(5_000_000))
    const answer = JSON.stringify({ object: "list", data, model: "test", usage: {} })
    response.end(double.fault === "garbage" ? answer.slice(0, -9) : answer)
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  const double: EndpointDouble = {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
    requests,
    fault: undefined,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
  return double
}

/** Words count by what they mean, others by their letters. */
export function vectorOf(text: string): number[] {
  const vector = Array.from({ length: testDimensions }, () => 0.001)
  for (const word of text.toLowerCase().match(/\p{L}+/gu) ?? []) {
    const meaning = meanings.findIndex((words) => words.includes(word))
    const place = meaning >= 0 ? meaning : 10 + (hash(word) % (testDimensions - 10))
    vector[place] = (vector[place] ?? 0) + (meaning >= 0 ? 3 : 1)
  }
  return vector
}

function hash(word: string): number {
  return [...word].reduce((sum, letter) => (sum * 31 + (letter.codePointAt(0) ?? 0)) % 65_521, 7)
}
