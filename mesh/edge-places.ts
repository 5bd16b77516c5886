/** Frees the places that clients hold at the edge without doing their part. */
import { constants } from "node:http2"
import type { EdgeRequest, EdgeResponse } from "./edge-responses.ts"

/** What a client gets to end its stream by itself once it has the answer. */
const farewellMs = 500

/**
 * Ends the stream of a request whose answer is out before its body was. Otherwise HTTP/2 would wait
 * for the rest of the body, and the stream count against the session's limit, for as long as the
 * client likes. An HTTP/1.1 connection is closed by its answer's headers instead.
 */
export function releaseUnread(request: EdgeRequest): void {
  if (!("stream" in request)) return
  const { stream } = request
  stream.on("finish", () => {
    if (stream.readableEnded) return
    // Not at once: a client may hear of the end before it has read the answer.
    const timer = setTimeout(() => stream.close(constants.NGHTTP2_NO_ERROR), farewellMs)
    stream.on("close", () => clearTimeout(timer))
  })
}

/**
 * Ends an answer of which the reader has taken nothing for this long although there is something to
 * take. One that waits for its handler, such as a watch on which nothing happens, stays.
 */
export function endStalled(response: EdgeResponse, stallMs: number): void {
  response.setTimeout(stallMs)
  response.on("timeout", () => {
    const carrier = "stream" in response ? response.stream : response.socket
    if (carrier === null || carrier === undefined || carrier.destroyed) return
    if (carrier.writableLength > 0) carrier.destroy()
    else carrier.setTimeout(stallMs)
  })
}
