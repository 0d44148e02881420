/** The monitor: asks the server for its figures every two seconds while somebody looks, and shows them. */

import { Api } from "./api.js";
import { explained } from "./errors.js";
import { bytes, count, milliseconds, percent } from "./format.js";
import { askForKey } from "./key.js";
import { svg } from "./svg.js";

const PAUSE = 2000;
const HEIGHT = 160;
const MARGIN = { top: 10, right: 10, bottom: 12, left: 56 };
const TIME = new Intl.DateTimeFormat("en", { timeStyle: "medium", hour12: false });
const LOOKUPS = { hit: "hit", miss: "miss", bypass: "bypassed", none: "no image" };

const at = (id) => document.getElementById(id);
const api = new Api(askForKey);
const servers = new Set(); // by when each started
let drawn = [];

/** @typedef {object} Question the figures of one, as `recent` has them */

function show(data) {
  servers.add(data.started_at);
  at("several").hidden = servers.size < 2;
  at("scope").textContent =
    `One process, serving ${data.model}, since its start ${ago(data.now - data.started_at)} ago. Replicas are not counted.`;
  showTotals(data.totals);
  showContexts(data);
  showQuestions(data.recent);
}

function showTotals(totals) {
  const asked = totals.hits + totals.misses;
  if (asked) {
    tell("rate", percent(totals.hits / asked));
    tell("rate-note", `${count(totals.hits)} of ${plural(asked, "question")} about images`);
  }
  const all = totals.saved_tokens + totals.processed_tokens;
  tell("tokens", count(totals.saved_tokens));
  tell("tokens-note", all ? `${percent(totals.saved_tokens / all)} of ${count(all)} that full passes would have run` : " ");
  const hit = totals.hit_answers ? totals.hit_seconds / totals.hit_answers : null;
  const miss = totals.miss_answers ? totals.miss_seconds / totals.miss_answers : null;
  showFirstTokens(hit, miss, totals.hit_answers);
}

/** @param {?number} hit, miss: the mean seconds until the first token; null: there was none */
function showFirstTokens(hit, miss, hits) {
  const most = Math.max(hit ?? 0, miss ?? 0);
  for (const [name, seconds] of Object.entries({ hit, miss })) {
    tell(`${name}-first`, seconds === null ? "–" : milliseconds(seconds * 1000));
    const width = seconds === null ? 0 : (100 * seconds) / most;
    at(`${name}-bar`).replaceChildren(svg("rect", { width: `${width}%`, height: "100%", rx: 4 }));
  }
  if (hit === null || miss === null) return;
  tell("time", duration(Math.max(0, miss - hit) * hits));
  tell("time-note", `An estimate: had ${hits === 1 ? "the hit" : `all ${count(hits)} hits`} waited as long as a miss does on average`);
  const factor = miss / hit;
  tell("first-note", factor >= 1 ? `A hit's comes ${factor.toFixed(1)} times sooner, on average.` : "A hit's does not come sooner yet.");
}

function showContexts({ contexts, store, queue, totals }) {
  tell("contexts", contexts ? count(contexts.count) : "–");
  const where = store === "memory" ? "in this process's memory" : `in ${store[0].toUpperCase()}${store.slice(1)}`;
  tell("contexts-note", contexts ? `Yours, ${bytes(contexts.bytes)} ${where}` : "The store does not answer.");
  tell("queue", count(queue));
  const notes = [`passes wait or run. ${plural(totals.described, "describe pass", "describe passes")} done`];
  if (totals.describes_failed) notes.push(`${count(totals.describes_failed)} failed`);
  if (totals.failed) notes.push(`${plural(totals.failed, "question")} failed`);
  if (totals.damaged) notes.push(`${count(totals.damaged)} damaged`);
  if (totals.breakers_open) notes.push("the store is away");
  tell("work-note", notes.join(", "));
}

/** @param {Question[]} questions the newest first */
function showQuestions(questions) {
  at("nothing").hidden = questions.length > 0;
  at("recent").replaceChildren(...questions.map(row));
  drawn = [...questions].reverse().filter((question) => question.first_token_seconds !== null);
  drawDots();
}

function row(question) {
  const line = document.createElement("tr");
  const first = question.first_token_seconds;
  cell(line, TIME.format(question.time * 1000));
  cell(line, LOOKUPS[question.cache], question.cache);
  cell(line, question.error ?? question.status, question.status >= 400 ? "failed" : "");
  cell(line, question.images ?? "–", "more");
  cell(line, question.prompt_tokens === null ? "–" : count(question.prompt_tokens), "more");
  cell(line, question.saved_tokens === null ? "–" : count(question.saved_tokens), "more");
  cell(line, question.generated_tokens === null ? "–" : count(question.generated_tokens), "more");
  cell(line, first === null ? "–" : milliseconds(first * 1000));
  cell(line, milliseconds(question.seconds * 1000), "more");
  return line;
}

function cell(line, text, kind = "") {
  const made = line.insertCell();
  made.textContent = text;
  made.className = kind;
}

/** Draw a dot for each question: the time until its first token, on a logarithmic scale. */
function drawDots() {
  const element = at("dots");
  const width = element.clientWidth;
  const powers = drawn.map((question) => Math.log10(Math.max(1, question.first_token_seconds * 1000)));
  const low = Math.floor(Math.min(1, ...powers));
  const high = Math.max(low + 1, Math.ceil(Math.max(3, ...powers)));
  const x = (i) => MARGIN.left + ((i + 0.5) / Math.max(drawn.length, 1)) * (width - MARGIN.left - MARGIN.right);
  const y = (power) => HEIGHT - MARGIN.bottom - ((power - low) / (high - low)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const ticks = Array.from({ length: high - low + 1 }, (_, i) => low + i);
  element.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  element.replaceChildren(
    ...ticks.flatMap((power) => [
      svg("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(power), y2: y(power) }),
      svg("text", { x: MARGIN.left - 8, y: y(power) + 4, "text-anchor": "end" }, milliseconds(10 ** power)),
    ]),
    ...drawn.map(({ cache }, i) => svg("circle", { class: `dot ${cache}`, cx: x(i), cy: y(powers[i]), r: 4.5 })),
  );
}

function tell(name, text) {
  const element = document.querySelector(`[data-figure="${name}"]`);
  if (element.textContent !== text) element.textContent = text;
}

const plural = (number, one, several = `${one}s`) => `${count(number)} ${number === 1 ? one : several}`;

function duration(seconds) {
  if (seconds < 90) return milliseconds(seconds * 1000);
  return seconds < 5400 ? `${(seconds / 60).toFixed(1)} min` : `${count(Math.round(seconds / 360) / 10)} h`;
}

function ago(seconds) {
  if (seconds < 90) return plural(Math.round(seconds), "second");
  if (seconds < 5400) return plural(Math.round(seconds / 60), "minute");
  return seconds < 129600 ? plural(Math.round(seconds / 3600), "hour") : plural(Math.round(seconds / 86400), "day");
}

async function look() {
  try {
    show(await api.get("monitor/data.json"));
    at("away").hidden = true;
  } catch (error) {
    at("away").textContent = `${explained(error)} The figures below are the last ones.`;
    at("away").hidden = false;
  }
}

/** Wait, and longer if nobody looks. */
async function pause() {
  await new Promise((resolve) => setTimeout(resolve, PAUSE));
  while (document.hidden) {
    await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  }
}

new ResizeObserver(drawDots).observe(at("dots"));
for (;;) {
  await look();
  await pause();
}
