/** What all questions cost together, in both ways. */

import { Chart } from "./chart.js";
import { count, milliseconds } from "./format.js";

const FORMATS = { tokens: count, milliseconds };

/** @typedef {{tokens: number, milliseconds: number}} Cost prompt tokens that were run, and how long it took */

export class Costs {
  #chart = new Chart(document.getElementById("chart"));
  #unit = "tokens";
  /** Made since the last question that was answered in both ways. */
  #looked = { tokens: 0, milliseconds: 0 };
  #sums = [];

  constructor() {
    this.clear();
  }

  /** @param {"tokens"|"milliseconds"} name what is drawn */
  set unit(name) {
    this.#unit = name;
    this.#draw();
  }

  clear() {
    this.#looked = { tokens: 0, milliseconds: 0 };
    this.#sums = [{ context: this.#looked, full: this.#looked }];
    this.#draw();
  }

  /** @param {Cost} cost of a describe pass: it counts with what follows, the first one from the start */
  addLook(cost) {
    if (this.#sums.length === 1) {
      this.#sums[0].context = sum(this.#sums[0].context, cost);
    } else {
      this.#looked = sum(this.#looked, cost);
    }
    this.#draw();
  }

  /** @param {import("./answers.js").Row} row answered in both ways */
  addQuestion(row) {
    const last = this.#sums.at(-1);
    this.#sums.push({
      context: sum(last.context, sum(this.#looked, costOf(row.context.answer))),
      full: sum(last.full, costOf(row.full.answer)),
    });
    this.#looked = { tokens: 0, milliseconds: 0 };
    this.#draw();
  }

  #draw() {
    const format = FORMATS[this.#unit];
    const lines = {};
    for (const way of ["context", "full"]) {
      lines[way] = this.#sums.map((sums) => sums[way][this.#unit]);
      document.getElementById(`${way}-sum`).textContent = format(lines[way].at(-1));
    }
    this.#chart.draw({ ...lines, format });
  }
}

/** @returns {Cost} */
function costOf({ usage, total }) {
  return { tokens: usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens, milliseconds: total };
}

/** @returns {Cost} */
function sum(a, b) {
  return { tokens: a.tokens + b.tokens, milliseconds: a.milliseconds + b.milliseconds };
}
