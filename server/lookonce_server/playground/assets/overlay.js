/** What is kept of a picture, and the attention its tokens drew, drawn over it. */

import { count } from "./format.js";
import { svg } from "./svg.js";

let masks = 0; // drawn so far: their ids are those of the page

export class Overlay {
  #element;

  /** @param {SVGSVGElement} element stands within the picture */
  constructor(element) {
    this.#element = element;
    this.view = "kept";
  }

  /** @param {"kept"|"heat"|"picture"} name what is seen; the style sheet hides the rest */
  set view(name) {
    this.#element.dataset.view = name;
  }

  /**
   * Lie over a part of a picture, with nothing drawn yet.
   * @param {import("./picture.js").Picture} picture
   * @param {{left: number, top: number, right: number, bottom: number}} area in the picture's pixels; it may reach beyond it
   */
  cover({ width, height }, { left, top, right, bottom }) {
    const percent = (value, all) => `${(100 * value) / all}%`;
    Object.assign(this.#element.style, {
      left: percent(left, width),
      top: percent(top, height),
      width: percent(right - left, width),
      height: percent(bottom - top, height),
    });
    this.clear();
  }

  clear() {
    this.#element.replaceChildren();
  }

  /**
   * Draw the tokens of one frame; a picture that does not move has one.
   * @param {import("./api.js").Tokens} tokens a cell of the grid each, or a box in the picture
   * @param {number} frame from 0
   */
  draw({ grid, boxes, scores: allScores, kept: allKept }, frame = 0) {
    const [rows, columns] = grid.slice(-2);
    const start = frame * rows * columns;
    const scores = allScores.slice(start, start + rows * columns);
    const kept = allKept.filter((i) => start <= i && i < start + rows * columns).map((i) => i - start);
    const cell = (index) => {
      if (!boxes) return { x: index % columns, y: Math.floor(index / columns), width: 1, height: 1 };
      const [left, top, right, bottom] = boxes[start + index]; // all 0 if the token shows nothing
      return { x: left, y: top, width: right - left, height: bottom - top };
    };
    const [width, height] = boxes ? [1, 1] : [columns, rows];
    const least = Math.min(...allScores); // shades of frames can be compared
    const range = Math.max(...allScores) - least || 1;
    // The root evens out what one token draws more than all others, so that the rest can be told apart.
    const shade = (score) => 0.85 * Math.sqrt((score - least) / range);
    const heat = scores.map((score, i) => svg("rect", { ...cell(i), "fill-opacity": shade(score) }));
    // A mask, since the token of a tile and that of a smaller view of all may show the same.
    const all = { x: 0, y: 0, width, height };
    const holes = kept.map((i) => svg("path", { d: outline(cell(i)) }));
    const id = `veil-${++masks}`;
    const mask = svg("mask", { id, maskUnits: "userSpaceOnUse", ...all }, svg("path", { fill: "white", d: outline(all) }), ...holes);
    const veil = svg("path", { class: "veil", mask: `url(#${id})`, d: outline(all) });
    const cells = kept.map((i) => svg("rect", cell(i)));
    this.#element.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.#element.setAttribute("aria-label", `${count(kept.length)} of the picture's ${count(scores.length)} tokens are marked`);
    this.#element.replaceChildren(svg("g", { class: "heat" }, ...heat), mask, veil, svg("g", { class: "kept" }, ...cells));
  }
}

const outline = ({ x, y, width, height }) => `M${x} ${y}h${width}v${height}h${-width}z`;
