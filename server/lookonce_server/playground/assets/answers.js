/** A question's row: the answer from the context, and the full pass's beside it. */

import { count, milliseconds } from "./format.js";

/** One way to answer the question, with what it cost. */
class Way {
  /** @type {?import("./api.js").Answer} null until it is whole */
  answer = null;

  constructor(title, name) {
    this.element = document.getElementById("way-template").content.firstElementChild.cloneNode(true);
    this.element.classList.add(name);
    this.element.querySelector("h4").textContent = title;
  }

  set text(value) {
    this.element.querySelector(".text").textContent = value;
  }

  /** @param {import("./api.js").Answer} answer */
  finish(answer) {
    this.answer = answer;
    const { usage, lookonce } = answer;
    const figures = {
      first: milliseconds(answer.firstToken),
      total: milliseconds(answer.total),
      prompt: count(usage.prompt_tokens),
      saved: count(lookonce.tokens_saved),
      cache: lookonce.tier ? `${lookonce.cache} (${lookonce.tier})` : lookonce.cache,
    };
    for (const [name, value] of Object.entries(figures)) {
      this.element.querySelector(`[data-figure=${name}]`).textContent = value;
    }
    if (lookonce.images?.length > 1) this.#tellImages(lookonce.images);
    if (!answer.text) this.text = "(no words)";
  }

  /** Say what became of each of several pictures. */
  #tellImages(images) {
    const figure = this.element.querySelector("dl div").cloneNode(true);
    figure.className = "wide";
    figure.querySelector("dt").textContent = "Pictures";
    const value = figure.querySelector("dd");
    value.dataset.figure = "pictures";
    const caches = images.map(({ cache }) => cache);
    const isSame = new Set(caches).size === 1;
    value.textContent = isSame ? `all ${caches.length} ${caches[0]}` : caches.map((cache, i) => `${i + 1} ${cache}`).join(", ");
    this.element.querySelector("dl").append(figure);
  }

  /** Say whether the answer is the right one. */
  judge(right) {
    const is = this.answer.text.trim().replace(/\.$/, "").toLowerCase() === right.toLowerCase();
    const mark = document.createElement("span");
    mark.className = is ? "right" : "wrong";
    mark.textContent = is ? "right" : `wrong: ${right}`;
    this.element.querySelector(".text").append(" ", mark);
  }
}

export class Row {
  context = new Way("From the context", "context");
  /** @type {?Way} null where no full pass is wanted */
  full = null;

  /**
   * @param {string} question
   * @param {?string} right its only right answer, where that is known
   * @param {boolean} compares whether there is a full pass
   * @param {import("./shown.js").Shown[]} shown the pictures that it is about
   */
  constructor(question, right, compares, shown) {
    this.question = question;
    this.right = right;
    this.shown = shown;
    this.element = document.getElementById("answer-template").content.firstElementChild.cloneNode(true);
    this.element.querySelector("h3").textContent = question;
    if (compares) this.full = new Way("Full pass", "full");
    this.element.querySelector(".ways").append(...[this.context, this.full].filter(Boolean).map((way) => way.element));
  }

  /** @returns {string} how the two ways compare; needs both answers */
  verdict() {
    const { context, full } = this;
    const times = full.answer.firstToken / context.answer.firstToken;
    const sooner =
      times > 1.05 ? `${times.toFixed(1)} times sooner`
      : times < 0.95 ? `${(1 / times).toFixed(1)} times later`
      : "about as soon";
    const same = context.answer.text.trim() === full.answer.text.trim() ? "The same answer" : "Another answer";
    const fewer = count(context.answer.lookonce.tokens_saved);
    return `${same}; its first token ${sooner}, and ${fewer} fewer prompt tokens to run.`;
  }

  /** Show how the ways compare. */
  compare() {
    this.element.querySelector(".verdict").textContent = this.verdict();
  }
}
