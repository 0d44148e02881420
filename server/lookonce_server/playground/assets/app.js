/** The playground: a picture is looked at once, and questions are answered from what was kept of it. */

import { Row } from "./answers.js";
import { Api } from "./api.js";
import { Costs } from "./costs.js";
import { ApiError, explained } from "./errors.js";
import { bytes, count, milliseconds, percent } from "./format.js";
import { Keeping } from "./keeping.js";
import { Overlay } from "./overlay.js";
import { dataUrl, onFile, openPicture } from "./picture.js";

const FIRST_SCENES = [26, 15, 9, 8, 11, 150];
const SCENES_END = 1e9; // the server draws scenes below it

const at = (id) => document.getElementById(id);

/**
 * @typedef {object} Settings of the server
 * @property {string} model
 * @property {number} retention what it keeps unless asked otherwise
 * @property {number} min_retention what else may be asked for, from this
 * @property {number} max_retention to that; 0 for nothing else
 * @property {number} max_image_bytes
 */

class Playground {
  #api = new Api(askForKey);
  #overlay = new Overlay(at("overlay"));
  #costs = new Costs();
  #keeping = new Keeping(
    (share) => this.#preview(share),
    (share) => this.#inTurn((signal) => this.#make(share, signal)),
  );
  /** @type {?Promise<Settings>} */
  #settings = null;
  #opened = 0; // how many pictures were asked for: the last one counts
  #leaving = new AbortController(); // ends what belongs to the picture that is shown
  #previewing = new AbortController();
  #last = Promise.resolve(); // of what runs one after the other
  /** @type {?import("./picture.js").Picture} */
  #picture = null;
  /** @type {?import("./api.js").Context} */
  #context = null;
  #area = null; // of the picture, that its tokens cover; null where that is not known

  start() {
    this.#showScenes(FIRST_SCENES);
    at("other-scenes").addEventListener("click", () => {
      this.#showScenes(FIRST_SCENES.map(() => Math.floor(Math.random() * SCENES_END)));
    });
    onFile(at("file"), (file) => this.#open((settings) => openPicture(file, file.name, settings.max_image_bytes)));
    at("views").addEventListener("change", (event) => (this.#overlay.view = event.target.value));
    document.querySelector(".chart").addEventListener("change", (event) => (this.#costs.unit = event.target.value));
    at("ask-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask(at("question").value.trim());
      at("question").value = "";
    });
  }

  #showScenes(numbers) {
    at("scenes").replaceChildren(
      ...numbers.map((number) => {
        const image = new Image(112, 112);
        image.src = `playground/scenes/${number}.png`;
        image.alt = `Scene ${number}`;
        const button = document.createElement("button");
        button.type = "button";
        button.append(image);
        button.addEventListener("click", () => this.#open((settings) => this.#openScene(number, settings)));
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
    );
  }

  async #openScene(number, settings) {
    const path = `playground/scenes/${number}`;
    const [blob, suggestions] = await Promise.all([this.#api.blob(`${path}.png`), this.#api.get(`${path}.json`)]);
    return openPicture(blob, `Scene ${number}`, settings.max_image_bytes, suggestions);
  }

  /** Take a picture in place of the one before, unless it cannot be loaded. */
  async #open(load) {
    const number = ++this.#opened;
    try {
      this.#settings ??= this.#api.get("playground/settings.json");
      const settings = await this.#settings.catch((error) => {
        this.#settings = null; // asked for again with the next picture
        throw error;
      });
      const picture = await load(settings);
      if (number === this.#opened) this.#show(picture, settings);
      else URL.revokeObjectURL(picture.url);
    } catch (error) {
      if (number === this.#opened) tell(error, () => this.#open(load));
    }
  }

  #show(picture, settings) {
    this.#leaving.abort();
    this.#leaving = new AbortController();
    this.#keeping.forget();
    if (this.#picture) URL.revokeObjectURL(this.#picture.url);
    this.#picture = picture;
    this.#context = null;
    this.#overlay.clear();
    this.#area = null;
    this.#costs.clear();
    clearProblem();
    for (const id of ["answers", "suggestions", "description"]) at(id).replaceChildren();
    for (const fact of at("facts").querySelectorAll("dd")) fact.textContent = "–";
    for (const id of ["views", "keeping", "asking"]) at(id).disabled = true;
    at("image").src = picture.url;
    at("image").alt = picture.name;
    at("picture").style.setProperty("--ratio", picture.width / picture.height);
    at("no-area").hidden = true;
    at("picture").hidden = false;
    at("no-picture").hidden = true;
    at("frame").scrollIntoView({ block: "nearest" });
    this.#keeping.offer(settings);
    this.#inTurn((signal) => this.#make(settings.retention, signal));
  }

  /** Run what keeps the model busy one after the other, so that each is timed alone; a new picture ends all of it. */
  #inTurn(action) {
    const { signal } = this.#leaving;
    this.#last = this.#last
      .then(() => signal.aborted || action(signal))
      .catch((error) => signal.aborted || tell(error, () => this.#inTurn(action)));
  }

  /** See that the server has the picture's context at that share, and show what it keeps. */
  async #make(share, signal) {
    const isFirst = this.#context === null;
    if (isFirst) await this.#place(signal);
    let began = null;
    let text = "";
    for await (const event of this.#api.makeContext(this.#picture.blob, share, signal)) {
      if (event.type === "context.queued") {
        at("progress").textContent = "Waiting for its turn…";
      } else if (event.type === "context.describing") {
        began = performance.now();
        at("progress").textContent = "Looking…";
      } else if (event.type === "context.description.delta") {
        text += event.delta;
        if (isFirst) at("description").textContent = text;
      } else if (event.type === "context.completed") {
        this.#context = event.context;
      }
    }
    const took = began === null ? null : performance.now() - began;
    this.#drawTokens(await this.#api.tokens(this.#context.id, null, signal));
    this.#showContext(took);
  }

  /** Find where in the picture the model's tokens lie: it may crop pictures, or pad them. */
  async #place(signal) {
    const { width, height } = this.#picture;
    this.#area = await this.#api.get(`playground/area.json?width=${width}&height=${height}`, signal);
    if (this.#area) this.#overlay.cover(this.#picture, this.#area);
  }

  /** @param {?number} took milliseconds of the describe pass, null where none ran */
  #showContext(took) {
    const { description, image_tokens: all, kept_tokens: kept, tokens, retention, ...stored } = this.#context;
    if (took !== null) this.#costs.addLook({ tokens: all + tokens - kept, milliseconds: took });
    const facts = {
      image: `${count(all)} tokens`,
      kept: `${count(kept)} (${percent(retention)})`,
      context: `${count(tokens)} tokens, with the prompt's`,
      bytes: `${bytes(stored.bytes)}, ${stored.precision}`,
    };
    for (const [name, value] of Object.entries(facts)) document.querySelector(`[data-fact=${name}]`).textContent = value;
    const how = took === null ? "It was looked at before: nothing was run." : `Looked at in ${milliseconds(took)}.`;
    at("progress").textContent = `${how} The next questions are answered from ${count(kept)} of its tokens.`;
    if (at("description").textContent !== description) at("description").textContent = description;
    for (const id of ["views", "keeping", "asking"]) at(id).disabled = false;
    if (!at("suggestions").hasChildNodes()) this.#suggest(this.#picture.suggestions);
    say(`${description} ${at("progress").textContent}`);
  }

  async #preview(share) {
    this.#previewing.abort();
    this.#previewing = new AbortController();
    const signal = AbortSignal.any([this.#previewing.signal, this.#leaving.signal]);
    try {
      this.#drawTokens(await this.#api.tokens(this.#context.id, share, signal));
    } catch (error) {
      if (!signal.aborted) tell(error, () => this.#preview(share));
    }
  }

  #drawTokens(tokens) {
    const isPlaced = this.#area !== null && (tokens.grid[0] > 1 || tokens.scores.length === 1);
    if (isPlaced) this.#overlay.draw(tokens);
    at("no-area").hidden = isPlaced;
    this.#keeping.tell(tokens.kept.length, tokens.scores.length);
  }

  #suggest(suggestions) {
    at("suggestions").replaceChildren(
      ...suggestions.map(({ text, answer }) => {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = text;
        button.addEventListener("click", () => this.#ask(text, answer));
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
    );
  }

  #ask(question, right = null) {
    if (!question) return;
    const row = new Row(question, right, at("compare").checked);
    at("answers").prepend(row.element);
    this.#inTurn((signal) => this.#answer(row, signal));
  }

  /** Fill a row; what it has already is not asked again. */
  async #answer(row, signal) {
    if (!row.context.answer) {
      await this.#answerFromContext(row, signal);
      say(`${row.question} ${row.context.answer.text}`);
    }
    if (row.full && !row.full.answer) {
      await this.#fill(row.full, row, await dataUrl(this.#picture.blob), { cache: "bypass" }, signal);
      this.#costs.addQuestion(row);
      row.compare();
      say(row.verdict());
    }
  }

  async #answerFromContext(row, signal) {
    const ask = () => this.#fill(row.context, row, `lookonce:${this.#context.id}`, {}, signal);
    try {
      await ask();
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== "context_not_found") throw error;
      await this.#make(this.#context.retention, signal); // it expired, or was evicted
      await ask();
    }
  }

  async #fill(way, row, url, extension, signal) {
    const { model } = await this.#settings;
    const onText = (text) => (way.text = text);
    way.finish(await this.#api.ask(model, row.question, url, extension, onText, signal));
    if (row.right !== null) way.judge(row.right);
  }
}

/** Ask the person for the API key; `refused` tells that the last one was wrong. */
async function askForKey(refused) {
  const form = at("key-form");
  if (refused) at("key-why").textContent = "The server does not know that key. Try another one.";
  form.hidden = false;
  at("key").focus();
  await new Promise((resolve) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      resolve();
    }, { once: true });
  });
  form.hidden = true;
  const key = at("key").value;
  at("key").value = "";
  return key;
}

/** Tell of an error, with a way to try again. */
function tell(error, retry) {
  const text = document.createElement("p");
  text.textContent = explained(error);
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Try again";
  again.addEventListener("click", () => {
    clearProblem();
    retry();
  });
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.addEventListener("click", clearProblem);
  at("problem").replaceChildren(text, again, close);
}

function clearProblem() {
  at("problem").replaceChildren();
}

/** Have a screen reader say something, once it is whole. */
function say(text) {
  at("said").textContent = text;
}

new Playground().start();
