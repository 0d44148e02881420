/** The playground: pictures are looked at once, and questions are answered from what was kept of them. */

import { Row } from "./answers.js";
import { Api } from "./api.js";
import { Costs } from "./costs.js";
import { ApiError, PictureError, explained } from "./errors.js";
import { Keeping } from "./keeping.js";
import { askForKey } from "./key.js";
import { Moving } from "./moving.js";
import { Overlay } from "./overlay.js";
import { onFiles, openFile, openPicture, revoke, urlOf } from "./picture.js";
import { Savings } from "./savings.js";
import { Shown, Strip } from "./shown.js";

const FIRST_SCENES = [26, 15, 9, 104, 11, 112];
const SCENES_END = 1e9; // the server draws scenes below it
const PAIRS = [3, 12, 21, 6];
const CLIPS = [7, 3, 18, 30];
const ACROSS = [
  "Which image has more objects?",
  "How many objects are there in all images?",
  "What color is the first object in the second image?",
];

const at = (id) => document.getElementById(id);

/**
 * @typedef {object} Settings of the server
 * @property {string} model
 * @property {boolean} bundled whether that is the small model that comes with lookonce
 * @property {number} retention what it keeps unless asked otherwise
 * @property {number} min_retention what else may be asked for, from this
 * @property {number} max_retention to that; 0 for nothing else
 * @property {number} max_image_bytes
 * @property {number} max_images how many it takes in a question
 * @property {number} max_frames how many it takes of a video
 */

/** @typedef {(settings: Settings) => Promise<import("./picture.js").Picture>} Load */

class Playground {
  #api = new Api(askForKey);
  #overlay = new Overlay(at("overlay"));
  #strip = new Strip(at("pictures"), (shown) => this.#select(shown), (shown) => this.#remove(shown));
  #moving = new Moving((frame) => this.#showFrame(frame));
  #costs = new Costs();
  #savings = new Savings();
  #keeping = new Keeping(
    (share) => this.#preview(share),
    (share) => this.#shown.forEach((shown) => this.#inTurn((signal) => this.#make(shown, share, signal))),
  );
  /** @type {?Promise<Settings>} */
  #settings = null;
  #isBundled = false;
  #opened = 0; // how often pictures were asked for in place of others: the last time counts
  #adding = Promise.resolve(); // of what is loaded one after the other
  #leaving = new AbortController(); // ends what belongs to the pictures that are shown
  #previewing = new AbortController();
  #last = Promise.resolve(); // of what runs one after the other
  /** @type {Shown[]} in order */
  #shown = [];
  /** @type {?Shown} */
  #selected = null;

  start() {
    this.#showScenes(FIRST_SCENES);
    this.#pickScene(FIRST_SCENES[0]);
    at("other-scenes").addEventListener("click", () => {
      this.#showScenes(FIRST_SCENES.map(() => Math.floor(Math.random() * SCENES_END)));
    });
    onFiles(at("file"), (files) => {
      this.#open(files.map((file) => (settings) => openFile(file, file.name, settings)));
    });
    at("pair").addEventListener("click", () => this.#openAlbum(nextExample("pair", PAIRS)));
    at("clip").addEventListener("click", () => {
      const number = nextExample("clip", CLIPS);
      this.#open([(settings) => this.#openClip(number, settings)]);
    });
    at("views").addEventListener("change", (event) => {
      this.#overlay.view = event.target.value;
      this.#drawStrip();
    });
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
        button.dataset.scene = number;
        button.append(image);
        button.addEventListener("click", () => this.#pickScene(number));
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
    );
    this.#markScenes();
  }

  /** Mark the scenes that are among the pictures. */
  #markScenes() {
    const numbers = this.#shown.map(({ picture }) => picture.scene);
    for (const button of at("scenes").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", numbers.includes(Number(button.dataset.scene)));
    }
  }

  #pickScene(number) {
    this.#open([(settings) => this.#openScene(number, settings)]);
  }

  async #openScene(scene, settings) {
    const path = `playground/scenes/${scene}`;
    const [blob, suggestions] = await Promise.all([this.#api.blob(`${path}.png`), this.#api.get(`${path}.json`)]);
    const picture = await openPicture([blob], `Scene ${scene}`, settings.max_image_bytes, suggestions);
    return { ...picture, scene, isDrawn: true };
  }

  /** Open drawn scenes that questions are known across. */
  async #openAlbum(number) {
    try {
      const { pictures, questions } = await this.#api.get(`playground/albums/${number}.json`);
      const album = { size: pictures.length, suggestions: questions };
      this.#open(pictures.map((path, i) => async (settings) => {
        const blob = await this.#api.blob(path);
        return { ...(await openPicture([blob], `Pair ${number}, ${i + 1}`, settings.max_image_bytes)), album, isDrawn: true };
      }), false);
    } catch (error) {
      tell(error, () => this.#openAlbum(number));
    }
  }

  async #openClip(number, settings) {
    const { pictures, questions } = await this.#api.get(`playground/videos/${number}.json`);
    const blobs = await Promise.all(pictures.map((path) => this.#api.blob(path)));
    return { ...(await openPicture(blobs, `Moving scene ${number}`, settings.max_image_bytes, questions)), isDrawn: true };
  }

  /**
   * Take pictures, in place of those before or in addition to them; none if one cannot be loaded.
   * @param {Load[]} loads
   */
  #open(loads, adds = at("add").checked) {
    const number = adds ? this.#opened : ++this.#opened;
    const load = () => this.#load(loads, number, adds).catch((error) => {
      if (number === this.#opened) tell(error, () => this.#open(loads, adds));
    });
    this.#adding = adds ? this.#adding.then(load) : load();
  }

  async #load(loads, number, adds) {
    this.#settings ??= this.#api.get("playground/settings.json");
    const settings = await this.#settings.catch((error) => {
      this.#settings = null; // asked for again with the next picture
      throw error;
    });
    if (loads.length + (adds ? this.#shown.length : 0) > settings.max_images) {
      throw new PictureError(`This server takes up to ${settings.max_images} pictures in a question.`);
    }
    const loaded = await Promise.allSettled(loads.map((load) => load(settings)));
    const pictures = loaded.flatMap(({ value }) => value ?? []);
    const failed = loaded.find(({ status }) => status === "rejected");
    if (failed || number !== this.#opened) {
      pictures.forEach(revoke);
      if (failed) throw failed.reason;
    } else this.#show(pictures, settings, adds);
  }

  /** @param {import("./picture.js").Picture[]} pictures */
  #show(pictures, settings, adds) {
    if (!adds || !this.#shown.length) this.#leave(settings);
    clearProblem();
    const shown = pictures.map((picture) => new Shown(picture));
    this.#shown.push(...shown);
    at("model").textContent = settings.model;
    at("model").parentElement.classList.remove("unknown");
    this.#isBundled = settings.bundled;
    this.#select(shown[0]);
    this.#refreshPicks();
    at("frame").scrollIntoView({ block: "nearest" });
    const { share } = this.#keeping; // where others are there, theirs
    for (const one of shown) this.#inTurn((signal) => this.#make(one, share, signal));
  }

  /** Show what depends on which pictures are there. */
  #refreshPicks() {
    this.#markScenes();
    this.#suggest();
    at("unknown").hidden = !this.#isBundled || this.#shown.every(({ picture }) => picture.isDrawn);
  }

  /** Leave the pictures that are shown, and all that belongs to them. */
  #leave(settings) {
    this.#leaving.abort();
    this.#leaving = new AbortController();
    this.#keeping.forget();
    for (const { picture } of this.#shown) revoke(picture);
    this.#shown = [];
    this.#costs.clear();
    this.#savings.clear();
    at("answers").replaceChildren();
    this.#keeping.offer(settings);
  }

  #remove(shown) {
    const index = this.#shown.indexOf(shown);
    this.#shown.splice(index, 1); // its URL stays: questions about it may be under way
    if (this.#selected === shown) this.#selected = this.#shown[Math.min(index, this.#shown.length - 1)];
    this.#select(this.#selected);
    this.#refreshPicks();
    this.#strip.focus(index);
    say(`Picture ${index + 1} is removed: ${shown.picture.name}.`);
  }

  /** Show one of the pictures large, with what is known of it. */
  #select(shown) {
    this.#selected = shown;
    this.#moving.begin(shown.frames);
    at("image").src = shown.picture.urls[0];
    at("image").alt = shown.picture.name;
    at("picture").style.setProperty("--ratio", shown.picture.width / shown.picture.height);
    at("picture").hidden = false;
    at("no-picture").hidden = true;
    at("no-area").hidden = true;
    this.#refresh(shown);
  }

  /** Show what is known of a picture now, if it is the one that is large. */
  #refresh(shown) {
    this.#drawStrip();
    if (shown !== this.#selected) return;
    const { context, tokens } = shown;
    this.#refreshText(shown);
    this.#showFrame(this.#moving.frame);
    if (tokens) {
      at("no-area").hidden = shown.isPlaced;
      this.#keeping.tell(tokens.kept.length, tokens.scores.length);
    }
    for (const [name, value] of Object.entries(shown.facts)) {
      document.querySelector(`[data-fact=${name}]`).textContent = value;
    }
    for (const id of ["views", "keeping"]) at(id).disabled = context === null;
    at("asking").disabled = !this.#shown.some(({ context }) => context);
  }

  #showFrame(frame) {
    const { picture, isPlaced } = this.#selected;
    if (at("image").src !== picture.urls[frame]) at("image").src = picture.urls[frame];
    this.#selected.drawOn(this.#overlay, frame);
    this.#moving.tell(isPlaced ? this.#selected.keptIn(frame) : null);
  }

  #drawStrip() {
    this.#strip.draw(this.#shown, this.#selected, at("overlay").dataset.view);
  }

  /** Run what keeps the model busy one after the other, so that each is timed alone; other pictures end all of it. */
  #inTurn(action) {
    const { signal } = this.#leaving;
    this.#last = this.#last
      .then(() => signal.aborted || action(signal))
      .catch((error) => signal.aborted || tell(error, () => this.#inTurn(action)));
  }

  /** See that the server has a picture's context at that share, and show what it keeps. */
  async #make(shown, share, signal) {
    const isFirst = shown.context === null;
    if (isFirst) await this.#place(shown, signal);
    let began = null;
    let text = "";
    let context = null;
    for await (const event of this.#api.makeContext(shown.picture, share, signal)) {
      if (event.type === "context.queued") {
        shown.progress = "Waiting for its turn…";
      } else if (event.type === "context.describing") {
        began = performance.now();
        shown.progress = "Looking…";
      } else if (event.type === "context.description.delta") {
        text += event.delta;
        if (isFirst) shown.description = text;
      } else if (event.type === "context.completed") {
        context = event.context;
      }
      if (!context) this.#refreshText(shown);
    }
    const took = began === null ? null : performance.now() - began;
    shown.complete(context, await this.#api.tokens(context.id, null, signal), took);
    if (took !== null) {
      const { image_tokens: all, kept_tokens: kept, tokens } = context;
      this.#costs.addLook({ tokens: all + tokens - kept, milliseconds: took });
      this.#savings.addLook(all + tokens - kept);
    }
    this.#refresh(shown);
    const which = this.#shown.length > 1 ? `Picture ${this.#shown.indexOf(shown) + 1}: ` : "";
    say(`${which}${context.description} ${shown.progress}`);
  }

  /** Show a description as it is written. */
  #refreshText(shown) {
    if (shown !== this.#selected) return;
    at("progress").textContent = shown.progress || "\u00a0";
    if (at("description").textContent !== shown.description) at("description").textContent = shown.description;
  }

  /** Find where in the picture the model's tokens lie: it may crop pictures, or pad them. */
  async #place(shown, signal) {
    const { width, height } = shown.picture;
    shown.area = await this.#api.get(`playground/area.json?width=${width}&height=${height}`, signal);
  }

  async #preview(share) {
    this.#previewing.abort();
    this.#previewing = new AbortController();
    const signal = AbortSignal.any([this.#previewing.signal, this.#leaving.signal]);
    const shown = this.#selected;
    try {
      shown.tokens = await this.#api.tokens(shown.context.id, share, signal);
      this.#refresh(shown);
    } catch (error) {
      if (!signal.aborted) tell(error, () => this.#preview(share));
    }
  }

  /** Suggest the picture's own questions, or questions across several. */
  #suggest() {
    const [only, ...others] = this.#shown;
    const { album } = only.picture;
    const isAlbum = album?.size === this.#shown.length && others.every(({ picture }) => picture.album === album);
    const across = isAlbum ? album.suggestions : ACROSS.map((text) => ({ text, answer: null }));
    const suggestions = others.length ? across : only.picture.suggestions;
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
    const row = new Row(question, right, at("compare").checked, [...this.#shown]);
    at("answers").prepend(row.element);
    bringIntoView(row.element);
    this.#fillInTurn(row);
  }

  /** Fill a row once it is its turn; where that fails, the row says so. */
  #fillInTurn(row) {
    this.#inTurn((signal) => this.#answer(row, signal).catch((error) => {
      if (signal.aborted) return;
      row.fail(explained(error), () => this.#fillInTurn(row));
      say(`No answer to: ${row.question} ${explained(error)}`);
    }));
  }

  /** Fill a row; what it has already is not asked again. */
  async #answer(row, signal) {
    if (!row.context.answer) {
      await this.#answerFromContexts(row, signal);
      this.#savings.addQuestion(row);
      say(`${row.question} ${row.context.answer.text}`);
    }
    if (row.full && !row.full.answer) {
      const urls = await Promise.all(row.shown.map(({ picture }) => urlOf(picture)));
      try {
        await this.#fill(row.full, row, urls, { mode: "full_image" }, signal);
      } catch (error) {
        if (!(error instanceof ApiError) || error.code !== "context_length_exceeded") throw error;
        row.full.text = "The whole pictures are longer than this model takes.";
        return;
      }
      this.#costs.addQuestion(row);
      this.#savings.refresh();
      row.compare();
      say(row.verdict());
    }
  }

  async #answerFromContexts(row, signal) {
    const ask = () => this.#fill(row.context, row, row.shown.map(({ context }) => `lookonce:${context.id}`), {}, signal);
    for (const shown of row.shown) if (!shown.context) await this.#make(shown, this.#keeping.share, signal);
    try {
      await ask();
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== "context_not_found") throw error;
      for (const shown of row.shown) await this.#make(shown, shown.context.retention, signal); // one expired, or was evicted
      await ask();
    }
  }

  async #fill(way, row, urls, extension, signal) {
    const { model } = await this.#settings;
    const onText = (text) => (way.text = text);
    const pictures = row.shown.map(({ isMoving, files, picture }, i) => ({ url: urls[i], isMoving, files, saved: picture.urls }));
    way.sent = { model, question: row.question, pictures, extension, hasKey: this.#api.hasKey };
    way.finish(await this.#api.ask(model, row.question, pictures, extension, onText, signal));
    if (row.right !== null) way.judge(row.right);
  }
}

/** Scroll to the answers of a new row, with the picture that they are about where all fit, else with the question. */
function bringIntoView(row) {
  const answers = row.querySelector(".ways");
  const isSeen = (element) => {
    const { top, bottom } = element.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  };
  const [frame, form] = [at("frame"), at("ask-form")];
  if ([frame, form, answers].every(isSeen)) return;
  const top = Math.min(...[frame, form].map((element) => element.getBoundingClientRect().top));
  const height = answers.getBoundingClientRect().bottom - top;
  (height <= innerHeight ? at("workspace") : form).scrollIntoView({ block: "start" });
}

const examples = new Map();

/** @returns {number} the next of some examples, from the first on */
function nextExample(name, numbers) {
  const index = examples.get(name) ?? 0;
  examples.set(name, index + 1);
  return numbers[index % numbers.length];
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
