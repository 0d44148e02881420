/** The frames of a moving picture: one after the other, or the one that the person wants to see. */

const FRAME_MS = 500;

export class Moving {
  #fieldset = document.getElementById("moving");
  #play = document.getElementById("play");
  #slider = document.getElementById("frame-number");
  #said = document.getElementById("frame-said");
  #onFrame;
  #timer = null;

  /** @param {(frame: number) => void} onFrame shows a frame, from 0 */
  constructor(onFrame) {
    this.#onFrame = onFrame;
    this.#play.addEventListener("click", () => (this.#timer ? this.stop() : this.#start()));
    this.#slider.addEventListener("input", () => {
      this.stop();
      this.#show();
    });
  }

  get frame() {
    return Number(this.#slider.value) - 1;
  }

  /** Begin with a picture; it moves by itself where the person has nothing against motion. */
  begin(frames) {
    this.stop();
    this.#fieldset.hidden = frames < 2;
    this.#slider.max = frames;
    this.#slider.value = 1;
    if (frames > 1 && matchMedia("(prefers-reduced-motion: no-preference)").matches) this.#start();
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#play.textContent = "Play";
  }

  /** Say how much is kept of the frame that is shown; null where that is not known. */
  tell(kept) {
    const text = `Frame ${this.#slider.value} of ${this.#slider.max}${kept === null ? "" : `: ${kept} tokens kept`}`;
    this.#said.textContent = text;
    this.#slider.setAttribute("aria-valuetext", text);
  }

  #start() {
    this.#play.textContent = "Pause";
    this.#timer = setInterval(() => {
      this.#slider.value = (this.frame + 1) % this.#slider.max + 1;
      this.#show();
    }, FRAME_MS);
  }

  #show() {
    this.#onFrame(this.frame);
  }
}
