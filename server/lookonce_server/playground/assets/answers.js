/** A question's row: the answer from the context, and the full pass's beside it. */

import { toggleCode } from "./code_panel.js";
import { count, milliseconds } from "./format.js";
import { isUnsure } from "./savings.js";

const UNSURE = {
  full_pass: "The model was unsure: the whole picture was asked.",
  no_image: "The model was unsure.",
  no_room: "The model was unsure, and the whole picture does not fit it.",
};

/** One way to answer the question, with what it cost. */
class Way {
  /** @type {?import("./api.js").Answer} null until it is whole */
  answer = null;
  /** Whether it is the right answer; null where that is not known. */
  isRight = null;

  constructor(title, name) {
    this.element = document.getElementById("way-template").content.firstElementChild.cloneNode(true);
    this.element.classList.add(name);
    this.element.querySelector("h4").textContent = title;
  }

  /** Offer what was sent as code. @param {import("./code.js").Sent} sent */
  set sent(sent) {
    const button = this.element.querySelector(".title button");
    button.hidden = false;
    button.onclick = () => toggleCode(this.element.closest(".answer").querySelector(".code"), button, sent);
  }

  /** Say why there is no answer, with a way to try again. */
  fail(reason, retry) {
    const failure = this.element.querySelector(".failure");
    this.text = "No answer";
    failure.hidden = false;
    failure.querySelector("p").textContent = reason;
    failure.querySelector("button").onclick = () => {
      const hadFocus = failure.contains(document.activeElement);
      failure.hidden = true;
      this.text = "…";
      if (hadFocus) document.getElementById("question").focus();
      retry();
    };
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
    if (isUnsure(answer)) {
      const flag = this.element.querySelector(".flag");
      flag.hidden = false;
      flag.textContent = UNSURE[lookonce.fallback];
    }
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
    this.isRight = this.answer.text.trim().replace(/\.$/, "").toLowerCase() === right.toLowerCase();
    const mark = document.createElement("span");
    mark.className = this.isRight ? "right" : "wrong";
    mark.textContent = this.isRight ? "right" : `wrong: ${right}`;
    this.element.querySelector(".text").append(" ", mark);
  }
}

export class Row {
  context = new Way("From context", "context");
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

  /** Whether both ways gave the same answer; needs both. */
  get isSame() {
    return this.context.answer.text.trim() === this.full.answer.text.trim();
  }

  /** Say in the row that a question failed. */
  fail(reason, retry) {
    const failed = this.context.answer ? this.full : this.context;
    if (failed === this.context && this.full) this.full.text = "Not asked yet";
    failed.fail(reason, () => {
      if (this.full) this.full.text = "…";
      retry();
    });
  }

  /** @returns {string} how the two ways compare; needs both answers */
  verdict() {
    const { context, full } = this;
    const times = full.answer.firstToken / context.answer.firstToken;
    const sooner =
      times > 1.05 ? `${times.toFixed(1)} times sooner`
      : times < 0.95 ? `${(1 / times).toFixed(1)} times later`
      : "about as soon";
    const same = this.isSame ? "The same answer" : "The answers differ";
    const fewer = count(context.answer.lookonce.tokens_saved);
    return `${same}; its first token ${sooner}, and ${fewer} fewer prompt tokens to run.`;
  }

  /** Show how the ways compare. */
  compare() {
    this.element.querySelector(".verdict").textContent = this.verdict();
    this.element.classList.toggle("differs", !this.isSame);
  }
}
