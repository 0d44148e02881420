/** Pictures: from wherever the person takes one, to what can be shown and sent. */

import { PictureError } from "./errors.js";
import { bytes } from "./format.js";

/**
 * @typedef {object} Picture
 * @property {Blob[]} blobs its bytes, as they were chosen; of a moving one each frame's
 * @property {string[]} urls where this page has them, to be revoked when it is left
 * @property {number} width in pixels, as it is shown: upright
 * @property {number} height
 * @property {string} name
 * @property {Suggestion[]} suggestions
 */

/** @typedef {{text: string, answer: string}} Suggestion a question and its only right answer */

const MAX_FRAMES = 8; // of a clip, so that it can be looked at frame by frame

/**
 * @param {Blob} blob
 * @param {string} name
 * @param {import("./app.js").Settings} settings
 * @returns {Promise<Picture>} a moving one if the file is an animation
 * @throws {PictureError} too large, or nothing that this browser can show
 */
export async function openFile(blob, name, settings) {
  const frames = await framesOf(blob, Math.min(MAX_FRAMES, settings.max_frames));
  return openPicture(frames ?? [blob], name, settings.max_image_bytes);
}

/**
 * @param {Blob[]} blobs
 * @param {string} name
 * @param {number} maxBytes what the server takes of each
 * @param {Suggestion[]} suggestions
 * @returns {Promise<Picture>}
 * @throws {PictureError} too large, or nothing that this browser can show
 */
export async function openPicture(blobs, name, maxBytes, suggestions = []) {
  const large = blobs.find((blob) => blob.size > maxBytes);
  if (large) {
    throw new PictureError(`${name} has ${bytes(large.size)}; this server takes pictures of up to ${bytes(maxBytes)}.`);
  }
  const urls = blobs.map((blob) => URL.createObjectURL(blob));
  const image = new Image();
  image.src = urls[0];
  try {
    await image.decode();
  } catch {
    revoke({ urls });
    throw new PictureError(`${name} is no picture that this browser can show.`);
  }
  // A drawing may have no size of its own.
  return { blobs, urls, width: image.naturalWidth || 1, height: image.naturalHeight || 1, name, suggestions };
}

/** Give a picture's memory back. */
export function revoke({ urls }) {
  urls.forEach(URL.revokeObjectURL);
}

/** @returns {Promise<?Blob[]>} frames spread over an animation; null where the file is none, or this browser cannot tell */
async function framesOf(blob, most) {
  if (!globalThis.ImageDecoder || !["image/gif", "image/webp"].includes(blob.type)) return null;
  const decoder = new ImageDecoder({ data: await blob.arrayBuffer(), type: blob.type });
  try {
    await decoder.tracks.ready;
    await decoder.completed;
    const { frameCount } = decoder.tracks.selectedTrack;
    if (frameCount < 2) return null;
    const count = Math.min(most, frameCount);
    const indices = Array.from({ length: count }, (_, i) => Math.round((i * (frameCount - 1)) / Math.max(1, count - 1)));
    const frames = [];
    for (const frameIndex of indices) {
      const { image } = await decoder.decode({ frameIndex });
      const canvas = new OffscreenCanvas(image.displayWidth, image.displayHeight);
      canvas.getContext("2d").drawImage(image, 0, 0);
      image.close();
      frames.push(await canvas.convertToBlob({ type: "image/png" }));
    }
    return frames;
  } catch {
    return null; // the server may still read it, or says what is wrong
  } finally {
    decoder.close();
  }
}

/** @returns {Promise<string>} a picture as a `data:` URL; a moving one as the list of its frames */
export async function urlOf({ blobs }) {
  const urls = await Promise.all(blobs.map(dataUrl));
  return urls.length === 1 ? urls[0] : `data:video/jpeg;base64,${urls.map((url) => url.split(",")[1]).join(",")}`;
}

/** @returns {Promise<string>} the bytes as a `data:` URL */
function dataUrl(blob) {
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
