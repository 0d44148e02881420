/** The slider for K, the share of the image tokens that is kept. */

import { count, percent } from "./format.js";

const SHARES = [0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1];
const REST_MS = 400; // so that a walk with the arrow keys makes one context, not one a step

export class Keeping {
  #slider = document.getElementById("share");
  #said = document.getElementById("share-said");
  #shares = SHARES;
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

  /** Stand at a share, one of the steps from now on. */
  set share(value) {
    this.#shares = [...new Set([...SHARES, value])].sort((a, b) => a - b);
    this.#slider.max = this.#shares.length - 1;
    this.#slider.value = this.#shares.indexOf(value);
    this.#say(percent(value));
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
