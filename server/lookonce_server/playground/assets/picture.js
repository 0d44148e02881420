/** Pictures: from wherever the person takes one, to what can be shown and sent. */

import { PictureError } from "./errors.js";
import { bytes } from "./format.js";

/**
 * @typedef {object} Picture
 * @property {Blob} blob its bytes, as they were chosen
 * @property {string} url where this page has it, to be revoked when it is left
 * @property {number} width in pixels, as it is shown: upright
 * @property {number} height
 * @property {string} name
 * @property {Suggestion[]} suggestions
 */

/** @typedef {{text: string, answer: string}} Suggestion a question and its only right answer */

/**
 * @param {Blob} blob
 * @param {string} name
 * @param {number} maxBytes what the server takes
 * @param {Suggestion[]} suggestions
 * @returns {Promise<Picture>}
 * @throws {PictureError} too large, or nothing that this browser can show
 */
export async function openPicture(blob, name, maxBytes, suggestions = []) {
  if (blob.size > maxBytes) {
    throw new PictureError(`${name} has ${bytes(blob.size)}; this server takes pictures of up to ${bytes(maxBytes)}.`);
  }
  const url = URL.createObjectURL(blob);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new PictureError(`${name} is no picture that this browser can show.`);
  }
  // A drawing may have no size of its own.
  return { blob, url, width: image.naturalWidth || 1, height: image.naturalHeight || 1, name, suggestions };
}

/** @returns {Promise<string>} the bytes as a `data:` URL */
export function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new PictureError("The picture cannot be read any more. Choose it again."));
    reader.readAsDataURL(blob);
  });
}

/** Call `chosen(files)` for files that the person chooses, drops anywhere on the page, or pastes. */
export function onFiles(input, chosen) {
  const all = (files) => files?.length && chosen([...files]);
  input.addEventListener("change", () => {
    all(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("paste", (event) => all(event.clipboardData.files));
  const isFile = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!isFile(event)) return;
    event.preventDefault(); // else the browser opens the file in place of the page
    document.body.classList.add("dropping");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  });
  document.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    document.body.classList.remove("dropping");
    all(event.dataTransfer.files);
  });
}
