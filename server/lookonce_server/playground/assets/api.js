/** The server's HTTP interface, as far as this page uses it. */

import { ApiError, unreachable } from "./errors.js";
import { urlOf } from "./picture.js";
import { events } from "./sse.js";

/**
 * @typedef {object} Context as POST /v1/contexts gives it
 * @property {string} id
 * @property {string} description
 * @property {number} image_tokens
 * @property {number} kept_tokens of the image's
 * @property {number} tokens of the whole context
 * @property {number} bytes
 * @property {number} retention
 * @property {string} precision
 */

/**
 * @typedef {object} Tokens as GET /v1/contexts/{id}/tokens gives them
 * @property {number[]} grid rows and columns of the image's tokens; of a video its frames before them
 * @property {?number[][]} boxes of tokens in tiles: left, top, right and bottom, as shares of the picture
 * @property {number[]} scores one a token, row by row, frame by frame
 * @property {number[]} kept indices of the tokens kept
 */

/**
 * @typedef {object} Answer
 * @property {string} text
 * @property {number} firstToken milliseconds until its first text
 * @property {number} total milliseconds until its end
 * @property {{prompt_tokens: number, prompt_tokens_details: {cached_tokens: number}}} usage
 * @property {{cache: string, tier: ?string, tokens_saved: number, fallback?: string, images?: {cache: string}[]}} lookonce
 */

export class Api {
  #askForKey;
  #key = null;

  /** @param {(refused: boolean) => Promise<string>} askForKey gets a key from the person; refused: the last was wrong */
  constructor(askForKey) {
    this.#askForKey = askForKey;
  }

  /** Whether the server wanted a key. */
  get hasKey() {
    return this.#key !== null;
  }

  /** @returns {Promise<object>} the JSON of a GET */
  async get(path, signal) {
    return (await this.#send(path, { signal })).response.json();
  }

  /** @returns {Promise<Blob>} the bytes of a GET */
  async blob(path, signal) {
    return (await this.#send(path, { signal })).response.blob();
  }

  /** @returns {Promise<Tokens>} those that a context keeps, or would keep at another share */
  tokens(id, retention, signal) {
    const query = retention === null ? "" : `?retention=${retention}`;
    return this.get(`v1/contexts/${id}/tokens${query}`, signal);
  }

  /**
   * Make the context of a picture.
   * @param {import("./picture.js").Picture} picture
   * @yields {{type: string, delta?: string, context?: Context, created?: boolean}} what happens, as it happens
   */
  async *makeContext(picture, retention, signal) {
    const options = { method: "POST", signal };
    if (picture.blobs.length > 1) {
      options.headers = { "content-type": "application/json" };
      options.body = JSON.stringify({ video_url: await urlOf(picture), retention, stream: true });
    } else {
      options.body = new FormData();
      options.body.append("image", picture.blobs[0]);
      options.body.append("retention", retention);
      options.body.append("stream", "true");
    }
    yield* this.#stream((await this.#send("v1/contexts", options)).response);
  }

  /**
   * Ask about images.
   * @param {string} model
   * @param {string} question
   * @param {{url: string, isMoving: boolean}[]} pictures the URL is `lookonce:<id>`, or `data:` with the pixels
   * @param {object} extension the request's `lookonce` object
   * @param {(text: string) => void} onText called with the text so far
   * @param {AbortSignal} signal
   * @returns {Promise<Answer>}
   */
  async ask(model, question, pictures, extension, onText, signal) {
    const images = pictures.map(({ url, isMoving }) =>
      isMoving ? { type: "video_url", video_url: { url } } : { type: "image_url", image_url: { url } },
    );
    const content = [...images, { type: "text", text: question }];
    const body = {
      model,
      messages: [{ role: "user", content }],
      stream: true,
      stream_options: { include_usage: true },
      lookonce: extension,
    };
    const headers = { "content-type": "application/json" };
    const options = { method: "POST", headers, body: JSON.stringify(body), signal };
    const { response, sentAt } = await this.#send("v1/chat/completions", options);
    const answer = { text: "", firstToken: null };
    for await (const event of this.#stream(response)) {
      const text = event.choices[0]?.delta.content;
      if (text) {
        answer.firstToken ??= performance.now() - sentAt;
        answer.text += text;
        onText(answer.text);
      }
      answer.usage = event.usage ?? answer.usage;
      answer.lookonce = event.lookonce ?? answer.lookonce;
    }
    answer.total = performance.now() - sentAt;
    answer.firstToken ??= answer.total; // an empty answer
    return answer;
  }

  async *#stream(response) {
    for await (const event of events(response)) {
      if (event.error) throw new ApiError(event.error);
      yield event;
    }
  }

  /** Send a request, with a key where the server wants one: what takes the person's time is not counted. */
  async #send(path, options) {
    for (;;) {
      const headers = { ...options.headers, ...(this.#key && { authorization: `Bearer ${this.#key}` }) };
      const sentAt = performance.now();
      const response = await fetch(path, { ...options, headers }).catch(unreachable);
      if (response.ok) return { response, sentAt };
      if (response.status !== 401) throw await errorOf(response);
      this.#key = await this.#askForKey(this.#key !== null);
    }
  }
}

async function errorOf(response) {
  const retryAfter = response.headers.get("retry-after");
  const body = await response.json().catch(() => ({})); // a proxy's own page, perhaps
  const error = body.error ?? { message: `The server answered ${response.status}.`, code: null };
  return new ApiError(error, retryAfter === null ? null : Number(retryAfter));
}
