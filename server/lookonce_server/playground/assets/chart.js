/** What the questions cost together, by the number of questions: two lines that grow. */

import { svg } from "./svg.js";

const HEIGHT = 190;
const MARGIN = { top: 10, right: 12, bottom: 24, left: 56 };

export class Chart {
  #element;
  #drawn = { context: [0], full: [0], format: String };

  /** @param {SVGSVGElement} element as wide as its place, redrawn when that changes */
  constructor(element) {
    this.#element = element;
    new ResizeObserver(() => this.draw(this.#drawn)).observe(element);
  }

  /**
   * @param {object} lines
   * @param {number[]} lines.context sums after 0, 1, 2... questions answered from a context
   * @param {number[]} lines.full the same, of full passes; as long
   * @param {(value: number) => string} lines.format of a sum
   */
  draw(lines) {
    this.#drawn = lines;
    const { context, full, format } = lines;
    const width = this.#element.clientWidth;
    const last = Math.max(1, context.length - 1);
    const ticks = niceTicks(Math.max(...context, ...full, 1));
    const x = (i) => MARGIN.left + (i / last) * (width - MARGIN.left - MARGIN.right);
    const y = (value) => HEIGHT - MARGIN.bottom - (value / ticks.at(-1)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
    this.#element.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.#element.replaceChildren(
      ...ticks.flatMap((value) => [
        svg("line", { class: "grid", x1: x(0), x2: x(last), y1: y(value), y2: y(value) }),
        svg("text", { x: MARGIN.left - 8, y: y(value) + 4, "text-anchor": "end" }, format(value)),
      ]),
      svg("text", { x: x(0), y: HEIGHT - 6, "text-anchor": "middle" }, "0"),
      svg("text", { x: x(last), y: HEIGHT - 6, "text-anchor": "end" }, last === 1 ? "1 question" : `${last} questions`),
      line("full", full, x, y),
      line("context", context, x, y),
    );
  }
}

function line(name, sums, x, y) {
  const points = sums.map((value, i) => `${x(i)},${y(value)}`).join(" ");
  const dots = sums.map((value, i) => svg("circle", { cx: x(i), cy: y(value), r: 3 }));
  return svg("g", { class: `series ${name}` }, svg("polyline", { points }), ...dots);
}

/** @returns {number[]} about four round numbers from 0 to at least `most` */
function niceTicks(most) {
  const rough = most / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough) * power;
  return Array.from({ length: Math.ceil(most / step) + 1 }, (_, i) => i * step);
}
