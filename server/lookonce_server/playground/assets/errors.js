/** What can go wrong, and how it is told to a person. */

/** An error that the server told of, in OpenAI's shape. */
export class ApiError extends Error {
  /**
   * @param {{message: string, code: ?string}} error as the server sent it
   * @param {?number} retryAfter seconds after which to ask again
   */
  constructor(error, retryAfter = null) {
    super(error.message);
    this.code = error.code;
    this.retryAfter = retryAfter;
  }
}

/** The server did not answer, or went away in the middle of an answer. */
export class UnreachableError extends Error {}

/** What was chosen cannot be used as a picture; the message says why. */
export class PictureError extends Error {}

/** Rethrow what fetch and its streams throw, told apart from our own mistakes. */
export function unreachable(error) {
  throw error.name === "AbortError" ? error : new UnreachableError(error.message, { cause: error });
}

/** @returns {string} a sentence or two for a person */
export function explained(error) {
  if (error instanceof UnreachableError) return "The server does not answer. Is it still running?";
  if (error instanceof ApiError && error.retryAfter !== null) {
    const wait = error.retryAfter === 1 ? "a second" : `${error.retryAfter} seconds`;
    return `${error.message} The server asks to wait ${wait}.`;
  }
  if (error instanceof ApiError || error instanceof PictureError) return error.message;
  return `This page failed: ${error.message}`;
}
