/** One document as a model reads it: its best passage, and the words that made the score. */

import { content } from "./documents.js";
import { ask } from "./service.js";

const WAIT_MS = 350;
const STRONGEST = 6;
const known = new Map();

/** An element; what is given as text is never read as anything else. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in made && key !== "role") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null && child !== undefined));
  return made;
}

export const signed = value => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

/** What the parts of a document make of its score, read as it was scored; asked once. */
export async function explained({ model, query, document, passage, long }, options) {
  const place = passage ? { passage: [passage.start, passage.end] } : {};
  const body = { model, query, document: content(document), windows: long, ...place }, key = JSON.stringify(body);
  if (!known.has(key)) {
    const { value, ms } = await ask("playground/explain", body, options);
    if (known.size > 300) known.clear();
    known.set(key, { ...value, ms });
  }
  return known.get(key);
}

/** The finest parts, in the order of the text: words, or a whole sentence whose words were not told apart. */
function parts(found) {
  return found.sentences.flatMap(sentence => {
    const words = found.words.filter(word => word.start >= sentence.start && word.end <= sentence.end);
    return words.length ? words : [sentence];
  });
}

/** From where to where the model found most: the passage of a long document, else the sentence that counts most. */
function bestPart(found, passage) {
  if (passage) return { start: passage.start, end: passage.end, named: "Best passage" };
  const read = found ? found.sentences.filter(one => one.read && one.contribution > 0) : [];
  if (read.length < 2) return null;
  const best = read.reduce((one, other) => other.contribution > one.contribution ? other : one);
  return { start: best.start, end: best.end, named: "Best sentence" };
}

/** The text with its parts coloured; places count characters as Python does, not as this language does. */
function coloured(text, found, best) {
  const characters = Array.from(text);
  const cut = (start, end) => characters.slice(start, end).join("");
  const shown = found ? parts(found) : [];
  const strongest = Math.max(0.01, ...shown.map(part => Math.abs(part.contribution)));
  const pieces = [];
  let at = 0;
  for (const part of shown) {
    if (part.start > at) pieces.push({ start: at, end: part.start });
    pieces.push(part);
    at = part.end;
  }
  if (at < characters.length) pieces.push({ start: at, end: characters.length });
  const made = element("p", { className: "text", dir: "auto" });
  const marked = best ? element("mark", {}) : null;
  for (const piece of pieces) {
    // what is not told apart may reach over the edge of a passage
    const edges = [piece.start, piece.end, ...(best ? [best.start, best.end] : [])];
    const inside = [...new Set(edges)].filter(edge => edge >= piece.start && edge <= piece.end).sort((one, other) => one - other);
    inside.slice(1).forEach((end, index) => {
      const start = inside[index], value = piece.contribution ?? 0;
      const level = Math.round(5 * Math.abs(value) / strongest);
      const node = level ? element("span", { className: `part ${value > 0 ? "for" : "against"} by${level}`, "data-counts": signed(value) }, cut(start, end))
        : piece.read === false ? element("span", { className: "unread" }, cut(start, end)) : cut(start, end);
      const within = best && start >= best.start && end <= best.end;
      if (within && !marked.isConnected && !marked.parentNode) made.append(marked);
      (within ? marked : made).append(node);
    });
  }
  return made;
}

function strongest(found) {
  const told = parts(found).filter(part => Math.abs(part.contribution) >= 0.01);
  told.sort((one, other) => Math.abs(other.contribution) - Math.abs(one.contribution));
  const most = Math.abs(told[0]?.contribution ?? 1);
  const list = element("ol", { className: "strongest" });
  for (const part of told.slice(0, STRONGEST)) {
    const bar = element("span", { className: `bar ${part.contribution > 0 ? "for" : "against"}`, "aria-hidden": "true" }, element("i"));
    bar.firstChild.style.inlineSize = `${100 * Math.abs(part.contribution) / most}%`;
    const text = part.text.length > 60 ? `${part.text.slice(0, 59)}…` : part.text;
    list.append(element("li", {}, element("bdi", {}, text), bar, element("span", { className: "number" }, signed(part.contribution))));
  }
  return list.childElementCount ? list : null;
}

/** Text, passage and contributions as they are known so far. */
export function reading(opened, found, problem) {
  const made = document.createDocumentFragment();
  const best = bestPart(found, opened.passage);
  const facts = [opened.said];
  if (best) facts.push(`${best.named} is marked`);
  if (opened.passage?.windows > 1) facts.push(`${opened.passage.windows} windows read`);
  made.append(element("p", { className: "facts" }, facts.join(" · ")));
  made.append(coloured(content(opened.document), found, best));
  if (problem) made.append(element("p", { className: "problem", role: "alert" }, problem));
  else if (!found) made.append(element("p", { className: "waiting" }, "Leaving out one word after the other…"));
  else {
    const list = strongest(found);
    made.append(element("h3", {}, "What made the score"));
    made.append(list ?? element("p", {}, "No word by itself: without any one of them the score stays as it is."));
    made.append(element("p", { className: "hint" }, `${found.additive.check} ${found.passes} texts scored in ${Math.round(found.ms)} ms; a number is what the logit loses without the part.`));
  }
  return made;
}

/** Fill a place with a document, and with its explanation once that is there. */
async function fill(place, opened, options) {
  place.replaceChildren(reading(opened, null, null));
  try {
    const found = await explained(opened, options);
    if (options.signal.aborted) return;
    place.replaceChildren(reading(opened, found, null));
    // a long text shows what counts most, not its beginning
    if (opened.passage) place.querySelector(".part.by5")?.scrollIntoView({ block: "center" });
  } catch (error) {
    if (!options.signal.aborted) place.replaceChildren(reading(opened, null, error.message));
  }
}

/** The dialog of one document, and the card that shows the same when a mouse rests on it. */
export class Reader {
  #dialog = document.getElementById("reader");
  #peek = document.getElementById("peek");
  #asked = new AbortController();
  #timer = 0;
  #row = null;

  constructor() {
    this.#dialog.addEventListener("close", () => this.#stop());
    this.#peek.addEventListener("pointerleave", () => this.leave());
    this.#peek.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    document.addEventListener("keydown", event => event.key === "Escape" && this.hide());
    document.addEventListener("scroll", event => !this.#peek.contains(event.target) && this.hide(), { capture: true, passive: true });
  }

  open(opened) {
    this.hide();
    document.getElementById("reader-title").textContent = opened.title;
    this.#dialog.showModal();
    fill(document.getElementById("reading"), opened, this.#begin());
  }

  /** After a moment, so that a mouse on its way asks for nothing. */
  rest(row, opened) {
    if (row === this.#row) return;
    clearTimeout(this.#timer);
    this.#row = row;
    this.#timer = setTimeout(() => {
      const options = this.#begin();
      this.#peek.hidden = false;
      fill(this.#peek, opened, options).then(() => this.#place(row));
      this.#place(row);
    }, WAIT_MS);
  }

  leave() {
    clearTimeout(this.#timer);
    if (this.#peek.hidden) this.#row = null;
    this.#timer = setTimeout(() => this.hide(), WAIT_MS);
  }

  hide() {
    clearTimeout(this.#timer);
    this.#row = null;
    if (!this.#peek.hidden) this.#stop();
    this.#peek.hidden = true;
  }

  #begin() {
    this.#stop();
    this.#asked = new AbortController();
    return { signal: this.#asked.signal };
  }

  #stop() {
    this.#asked.abort();
  }

  /** Beside the row where there is room, else below or above it. */
  #place(row) {
    const around = row.getBoundingClientRect(), card = this.#peek.getBoundingClientRect(), gap = 8;
    const fits = around.left - card.width - gap > 0;
    const left = fits ? around.left - card.width - gap : Math.min(Math.max(gap, around.right + gap), innerWidth - card.width - gap);
    const top = Math.min(Math.max(gap, around.top), Math.max(gap, innerHeight - card.height - gap));
    this.#peek.style.left = `${left}px`;
    this.#peek.style.top = `${top}px`;
  }
}
