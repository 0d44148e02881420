/** Server-sent events over fetch, which unlike EventSource can send a body and a key. */

import { UnreachableError, unreachable } from "./errors.js";

/**
 * The events of a response as they come, each the JSON of one `data:` line, up to `data: [DONE]`.
 *
 * Leaving the loop early closes the connection, which makes the server stop its work.
 *
 * @param {Response} response
 * @yields {object}
 */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let whole = false;
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(unreachable);
      if (done && whole) return;
      if (done) throw new UnreachableError("the stream ended early");
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line === "data: [DONE]") whole = true;
        else if (line.startsWith("data: ")) yield JSON.parse(line.slice("data: ".length));
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // of a broken stream it fails, and there is nothing left to close
  }
}
