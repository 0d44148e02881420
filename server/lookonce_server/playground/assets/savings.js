/** What all questions saved together, in one number, and what was lost for it. */

import { count, percent } from "./format.js";

const put = (name, text) => (document.querySelector(`[data-saved=${name}]`).textContent = text);
const of = (part, all, noun) => `${count(part)} of ${count(all)} ${noun}${all === 1 ? "" : "s"}`;

const UNSURE = ["full_pass", "no_image", "no_room"];

/** Whether the server says that a context's answer was not certain. */
export const isUnsure = (answer) => UNSURE.includes(answer.lookonce.fallback);

export class Savings {
  #looked = 0;
  #rows = [];

  clear() {
    this.#looked = 0;
    this.#rows = [];
    this.#draw();
  }

  /** @param {number} tokens that a describe pass ran */
  addLook(tokens) {
    this.#looked += tokens;
    this.#draw();
  }

  /** @param {import("./answers.js").Row} row answered from a context; it may get the full pass's answer later */
  addQuestion(row) {
    this.#rows.push(row);
    this.#draw();
  }

  /** Count a row anew that has got its second answer. */
  refresh() {
    this.#draw();
  }

  #draw() {
    if (!this.#rows.length) {
      put("share", "–");
      put("figures", "Nothing is asked yet. What your questions save is added up here.");
      put("lost", "\u00a0");
      return;
    }
    const answers = this.#rows.map(({ context }) => context.answer);
    const saved = answers.reduce((sum, { lookonce }) => sum + lookonce.tokens_saved, 0);
    const run = answers.reduce((sum, { usage }) => sum + usage.prompt_tokens - usage.prompt_tokens_details.cached_tokens, 0);
    put("share", percent(saved / (saved + run)));
    put("figures", `${of(saved, saved + run, "token")} in ${questions(answers.length)}${this.#withLook(saved, run)}`);
    put("lost", this.#lost());
  }

  /** Say what is left of it with the describe passes counted. */
  #withLook(saved, run) {
    if (!this.#looked) return ". The look was done before, and cost nothing.";
    const rest = saved - this.#looked;
    if (rest <= 0) return `. The look cost ${count(this.#looked)}, which is not saved yet.`;
    return `; ${percent(rest / (saved + run))} with the look counted.`;
  }

  /** Say how many answers differ, are wrong, or unsure. */
  #lost() {
    const compared = this.#rows.filter(({ full }) => full?.answer);
    const judged = compared.filter(({ right }) => right !== null);
    const unsure = this.#rows.filter(({ context }) => isUnsure(context.answer)).length;
    const right = (name) => judged.filter((row) => row[name].isRight).length;
    return [
      compared.length
        ? `${of(compared.filter((row) => !row.isSame).length, compared.length, "answer")} ${compared.length === 1 ? "differs" : "differ"} from the full pass's.`
        : "No answer is compared with a full pass.",
      judged.length ? `Right: contexts ${right("context")} of ${judged.length}, full passes ${right("full")} of ${judged.length}.` : "",
      unsure ? `The model was unsure of ${unsure}.` : "",
    ].filter(Boolean).join(" ");
  }
}

const questions = (number) => (number === 1 ? "1 question" : `${count(number)} questions`);
