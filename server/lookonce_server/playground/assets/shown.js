/** A picture that is shown: what is known of it so far. */

import { bytes, count, milliseconds, percent } from "./format.js";
import { Overlay } from "./overlay.js";

export class Shown {
  /** @type {?import("./api.js").Context} */
  context = null;
  /** Of the picture, that its tokens cover; null where that is not known. */
  area = null;
  /** @type {?import("./api.js").Tokens} those that are drawn */
  tokens = null;
  description = "The description appears here as it is written.";
  progress = "";
  /** Whether its context was there before this page asked for it; null until that is known. */
  wasKnown = null;

  /** @param {import("./picture.js").Picture} picture */
  constructor(picture) {
    this.picture = picture;
  }

  /** Whether the place of its tokens in it is known. */
  get isPlaced() {
    if (this.tokens === null) return false;
    const { grid, boxes, scores } = this.tokens;
    const frames = grid.length === 3 ? grid[0] : 1;
    if (frames !== this.frames) return false;
    return boxes !== null || (this.area !== null && (grid.at(-2) > 1 || scores.length === frames));
  }

  /** How many frames it has; 1 if it does not move. */
  get frames() {
    return this.picture.blobs.length;
  }

  /** What its files are called, one a frame. */
  get files() {
    const endings = { "image/jpeg": "jpg", "image/svg+xml": "svg" };
    const { blobs, name } = this.picture;
    const ending = `.${endings[blobs[0].type] ?? (blobs[0].type.split("/")[1] || "png")}`;
    const stem = name.replace(/\.\w{2,5}$/, "");
    return blobs.map((_, i) => (this.isMoving ? `${stem} ${i + 1}${ending}` : name === stem ? stem + ending : name));
  }

  get isMoving() {
    return this.frames > 1;
  }

  /** How many tokens are kept of a frame. */
  keptIn(frame) {
    const perFrame = this.tokens.scores.length / this.frames;
    return this.tokens.kept.filter((i) => Math.floor(i / perFrame) === frame).length;
  }

  /** Take a context that is there now; `took` is the milliseconds of the describe pass, null where none ran. */
  complete(context, tokens, took) {
    const isFirst = this.context === null;
    Object.assign(this, { context, tokens, description: context.description });
    if (isFirst) this.wasKnown = took === null;
    this.progress = took === null ? "It was looked at before: nothing was run." : `Looked at in ${milliseconds(took)}.`;
  }

  /** @returns {Object<string, string>} what its context comes to */
  get facts() {
    if (!this.context) return { image: "–", kept: "–", context: "–", bytes: "–" };
    const { image_tokens: all, kept_tokens: kept, tokens, retention, precision, bytes: size } = this.context;
    return {
      image: `${count(all)} tokens${this.isMoving ? `, ${count(this.frames)} frames` : ""}`,
      kept: `${count(kept)} (${percent(retention)})`,
      context: `${count(tokens)} tokens, with the prompt's`,
      bytes: `${bytes(size)}, ${precision}`,
    };
  }

  /** Draw what is kept over a frame of the picture, as far as that is known. */
  drawOn(overlay, frame = 0) {
    overlay.clear();
    const { width, height } = this.picture;
    const area = this.tokens?.boxes ? { left: 0, top: 0, right: width, bottom: height } : this.area;
    if (area) overlay.cover(this.picture, area);
    if (this.isPlaced) overlay.draw(this.tokens, frame);
  }
}

/** The list of all pictures that are shown, there where they are several. */
export class Strip {
  #element;
  #onSelect;
  #onRemove;

  /**
   * @param {HTMLOListElement} element
   * @param {(shown: Shown) => void} onSelect
   * @param {(shown: Shown) => void} onRemove
   */
  constructor(element, onSelect, onRemove) {
    this.#element = element;
    this.#onSelect = onSelect;
    this.#onRemove = onRemove;
  }

  /**
   * Show the pictures in their order.
   * @param {Shown[]} all
   * @param {Shown} selected
   * @param {string} view what is seen of their tokens
   */
  draw(all, selected, view) {
    this.#element.hidden = all.length < 2;
    const focused = [...this.#element.querySelectorAll("button")].indexOf(document.activeElement);
    this.#element.replaceChildren(...(all.length < 2 ? [] : all.map((shown, i) => this.#item(shown, i, selected, view))));
    if (focused >= 0) this.#element.querySelectorAll("button")[focused]?.focus();
  }

  /** Put the focus on a picture, on the last one if there are not as many, or on the choice of files. */
  focus(index) {
    const buttons = this.#element.querySelectorAll(".select");
    (buttons[Math.min(index, buttons.length - 1)] ?? document.getElementById("file")).focus();
  }

  #item(shown, index, selected, view) {
    const item = document.getElementById("picture-template").content.firstElementChild.cloneNode(true);
    const [select, remove] = item.querySelectorAll("button");
    const { picture, context, wasKnown } = shown;
    item.querySelector("img").src = picture.urls[0];
    item.querySelector(".picture").style.setProperty("--ratio", picture.width / picture.height);
    const overlay = new Overlay(item.querySelector("svg"));
    overlay.view = view;
    shown.drawOn(overlay);
    const state = wasKnown === null ? "not looked at yet" : wasKnown ? "known before" : "looked at now";
    const kept = context ? `, ${count(context.kept_tokens)} of ${count(context.image_tokens)} tokens kept` : "";
    item.querySelector(".number").textContent = index + 1;
    item.querySelector(".state").textContent = state;
    select.setAttribute("aria-label", `Picture ${index + 1}: ${picture.name}, ${state}${kept}`);
    select.setAttribute("aria-pressed", shown === selected);
    select.addEventListener("click", () => this.#onSelect(shown));
    remove.setAttribute("aria-label", `Remove picture ${index + 1}: ${picture.name}`);
    remove.addEventListener("click", () => this.#onRemove(shown));
    return item;
  }
}
