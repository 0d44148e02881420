/** The slider for K, the share of the image tokens that is kept. */

import { count, percent } from "./format.js";

const SHARES = [0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5, 0.75, 1];
const REST_MS = 400; // so that a walk with the arrow keys makes one context, not one a step

export class Keeping {
  #slider = document.getElementById("share");
  #said = document.getElementById("share-said");
  #shares = [];
  #resting = null;

  /**
   * @param {(share: number) => void} onMove while the slider moves
   * @param {(share: number) => void} onRest once it has been let go
   */
  constructor(onMove, onRest) {
    this.#slider.addEventListener("input", () => {
      this.forget();
      this.#say(percent(this.share));
      onMove(this.share);
    });
    this.#slider.addEventListener("change", () => {
      this.forget();
      this.#resting = setTimeout(() => onRest(this.share), REST_MS);
    });
  }

  get share() {
    return this.#shares[this.#slider.value];
  }

  /**
   * Offer what the server accepts, and stand at its own share.
   * @param {import("./app.js").Settings} settings
   */
  offer({ retention, min_retention: least, max_retention: most }) {
    const accepted = [...SHARES, least, most].filter((share) => share > 0 && least <= share && share <= most);
    this.#shares = [...new Set([...accepted, retention])].sort((a, b) => a - b);
    this.#slider.max = this.#shares.length - 1;
    this.#slider.value = this.#shares.indexOf(retention);
    this.#slider.disabled = this.#shares.length === 1;
    this.#say(percent(retention));
  }

  /** Do not report that it was let go. */
  forget() {
    clearTimeout(this.#resting);
  }

  /** Say what the share comes to. */
  tell(kept, all) {
    this.#say(`${percent(this.share)}: ${count(kept)} of ${count(all)} tokens`);
  }

  #say(text) {
    this.#said.textContent = text;
    this.#slider.setAttribute("aria-valuetext", text);
  }
}
