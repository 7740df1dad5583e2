/** The page: what is asked, what comes back, and a link that says both again. */

import { Board, firstColumn, secondColumn } from "./board.js";
import { Unreadable, content, documentsOf, fitting, keep, kept } from "./documents.js";
import { Reader, element } from "./reader.js";
import { Problem, ask, forgetKey, giveKey, rerank } from "./service.js";

const SHOWN = 10;
const DEEPEST = 200;
const SETTLE_MS = 180;
const EARLY = "One moment: the service has not told its models yet.";
const byId = id => document.getElementById(id);

const state = { query: "", depth: 20, weight: 1, models: [], long: true, all: false, own: false };
let info, corpus, found = null, answers = new Map(), asked = new AbortController(), own = kept(), view = 1, timer = 0;
// what the board shows, which may be older than what is asked; and what is done before `info` is there
let shown = null, isStarting = false, isAskedEarly = false;
const reader = new Reader();
const board = new Board({
  open: (hit, column) => reader.open(opened(hit, column)),
  rest: (row, hit, column) => reader.rest(row, opened(hit, column)),
  leave: () => reader.leave(),
});

// ---- A link that says a state again: everything but the documents of one's own.

function written() {
  const made = new URLSearchParams();
  if (state.query) made.set("q", state.query);
  made.set("depth", state.depth);
  made.set("weight", state.weight);
  made.set("models", state.models.join(","));
  if (!state.long) made.set("long", "0");
  if (state.all) made.set("all", "1");
  if (state.own) made.set("own", "1");
  return `#${made}`;
}

function number(text, least, most, otherwise) {
  const value = text === null || text.trim() === "" ? NaN : Number(text);
  return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : otherwise;
}

function readFragment() {
  const given = new URLSearchParams(location.hash.slice(1));
  const names = info.models.map(one => one.name);
  const chosen = (given.get("models") ?? "").split(",").filter(name => names.includes(name));
  state.query = given.get("q") ?? "";
  state.depth = Math.round(number(given.get("depth"), 1, deepest(), Math.min(20, deepest())));
  state.weight = Math.round(20 * number(given.get("weight"), 0, 1, 1)) / 20;
  state.models = chosen.length ? [...new Set(chosen)] : names.slice(0, 1);
  state.long = given.get("long") !== "0";
  state.all = given.get("all") === "1";
  const missing = given.get("own") === "1" && own === null;
  state.own = own !== null && (given.get("own") === "1" || !location.hash);
  return missing ? "This link was made with documents that are not in it: paste them again, or search the corpus." : "";
}

function remember(isNew) {
  const link = written();
  if (link === location.hash) return;
  history[isNew ? "pushState" : "replaceState"](null, "", link);
}

// ---- What the controls show.

const deepest = () => Math.min(DEEPEST, info.limits.max_documents);

function showControls() {
  byId("depth").max = deepest();
  byId("depth").value = state.depth;
  byId("weight").value = state.weight;
  byId("long").checked = state.long;
  for (const box of byId("models").querySelectorAll("input")) box.checked = state.models.includes(box.value);
  showSaid();
  byId("corpus").hidden = !state.own;
  const said = count => `${count.toLocaleString("en")} ${count === 1 ? "document" : "documents"}`;
  byId("about").textContent = state.own
    ? `${own.name} · ${said(own.documents.length)} of yours${own.left ? ` (${own.left.toLocaleString("en")} more are left out)` : ""}`
    : `${corpus.name} · ${said(corpus.documents)}`;
  byId("examples").hidden = state.own || !corpus.examples.length || Boolean(state.query);
  document.title = state.query ? `${state.query} – secondpass playground` : "secondpass playground";
}

function showSaid() {
  const weight = state.weight === 1 ? "second pass alone" : state.weight === 0 ? "first pass alone" : `${Math.round(100 * state.weight)} % second pass`;
  byId("depth-said").textContent = `${state.depth} read`;
  byId("weight-said").textContent = `${Math.round(100 * state.weight)} %`;
  byId("weight").setAttribute("aria-valuetext", weight);
  byId("depth").setAttribute("aria-valuetext", `${state.depth} documents are read`);
}

function makeControls() {
  for (const { name, cascade } of info.models) {
    const box = element("input", { type: "checkbox", value: name });
    byId("models").append(element("label", { className: "chip" }, box, element("bdi", {}, name), cascade ? element("small", {}, "cascade") : null));
    box.addEventListener("change", () => {
      const names = [...byId("models").querySelectorAll("input:checked")].map(one => one.value);
      if (!names.length) {
        box.checked = true;
        return say("One model at least reads.");
      }
      state.models = names;
      run();
    });
  }
  for (const text of corpus.examples) {
    const chip = element("button", { type: "button", className: "chip", dir: "auto" }, text);
    chip.addEventListener("click", () => submit(text));
    byId("examples").append(chip);
  }
}

const say = text => { byId("status").textContent = text; };

function showProblem(error) {
  const box = byId("problem");
  box.hidden = error === null;
  byId("results").classList.toggle("stale", error !== null && !byId("board").hidden);
  if (error === null) return;
  box.firstElementChild.textContent = error.request ? `${sentence(error.message)} (request ${error.request})` : error.message;
  if (error.status !== 401) return;
  byId("key-said").textContent = forgetKey() ? "The service refused this key." : "";
  if (!byId("access").open) byId("access").showModal();
}

const sentence = text => `${text.charAt(0).toUpperCase()}${text.slice(1)}${/[.?!]$/.test(text) ? "" : "."}`;

// ---- From a query to two passes.

/** The documents of the first pass; asked again where the query or what is searched is another. */
async function firstPass(options) {
  const key = JSON.stringify([state.query, state.own]);
  if (found?.key === key) return;
  const texts = state.own ? own.documents : null;
  const most = deepest(), body = { query: state.query, top_k: most, ...(texts ? { documents: texts.map(content) } : {}) };
  const { value, ms } = await ask("playground/search", body, options);
  const documents = value.results.map(one => texts ? texts[one.index] : { id: one.id, title: one.title, text: one.text });
  const matches = value.results.filter(one => one.score > 0).length;
  const matched = matches === most && matches < value.searched ? `${matches} or more` : String(matches);
  found = { key, hits: value.results, documents, searched: value.searched, matched, ms };
  answers = new Map();
}

/** One model's scores of the best documents; known ones are not asked for again. */
async function secondPass(model, read, options) {
  const key = JSON.stringify([model, read, state.long]);
  if (!answers.has(key)) {
    const texts = found.documents.slice(0, read).map(content);
    try {
      answers.set(key, await rerank(model, state.query, texts, state.long, options));
    } catch (error) {
      // what another model can still answer is shown; whether anybody answers at all is not one model's matter
      if (!(error instanceof Problem) || [0, 401, 503].includes(error.status)) throw error;
      return { problem: sentence(error.message) };
    }
  }
  return answers.get(key);
}

function show(made, read) {
  const columns = [firstColumn(found, read)];
  for (const [model, answer] of made) {
    columns.push(answer.problem ? { name: model, model, hits: [], about: "", problem: answer.problem }
      : secondColumn(model, answer, found.hits, found.documents, state.weight));
  }
  shown = { query: state.query, long: state.long, columns };
  view = Math.min(view, columns.length - 1);
  byId("empty").hidden = true;
  board.show(columns, state.all ? Infinity : SHOWN, view);
  const longest = Math.max(...columns.map(one => one.hits.length));
  byId("more").hidden = longest <= SHOWN;
  byId("more").textContent = state.all ? `Show the best ${SHOWN}` : `Show all ${longest}`;
  showStages(columns);
  showViews(columns);
  return columns;
}

/** A row as a model has read it for what was asked then: of the first pass as the first model that answered. */
function opened(hit, column) {
  const answering = shown.columns.slice(1).find(one => !one.problem) ?? shown.columns[1];
  const by = column.model === null ? answering : column, read = by.hits.find(one => one.place === hit.place);
  const said = `${by.name}: ${read ? read.said : "not read"}`;
  return {
    model: by.model, query: shown.query, long: shown.long, document: hit.document, title: hit.title,
    passage: read?.passage ?? null, said: by === column ? said : `${column.name}: ${hit.said} · ${said}`,
  };
}

/** In a line: who read how much, what came first, and who gave no scores. */
function outcome([, ...columns], read) {
  const failed = columns.filter(one => one.problem), done = columns.filter(one => !one.problem), last = done.at(-1);
  const of = state.own ? `your ${found.searched.toLocaleString("en")}` : `${found.matched} found`;
  const said = last ? [`${done.length > 1 ? `${done.length} models` : last.name} read ${read} of ${of}. First: ${last.hits[0].title}`] : [];
  if (failed.length) said.push(`No scores from ${failed.map(one => one.name).join(", ")}.`);
  return said.join(" · ");
}

function showStages(columns) {
  const stages = columns.filter(one => one.ms !== undefined);
  byId("stages").hidden = !stages.length;
  byId("stages").replaceChildren(...stages.map((one, place) => {
    const made = element("li", {}, element("bdi", {}, place ? one.name : "BM25"), ` ${one.ms < 9.95 ? one.ms.toFixed(1) : Math.round(one.ms)} ms`);
    made.style.flexGrow = one.ms;
    return made;
  }));
}

function showViews(columns) {
  byId("views").hidden = false;
  const focused = byId("views").contains(document.activeElement);
  byId("views").replaceChildren(...columns.map((one, place) => {
    const radio = element("input", { type: "radio", name: "view", value: String(place), checked: place === view });
    radio.addEventListener("change", () => { view = place; board.view(view); });
    return element("label", { className: "chip" }, radio, element("bdi", {}, one.name));
  }));
  if (focused) byId("views").querySelector("input:checked")?.focus();
}

/** Ask for what is not known yet and show it; a newer question ends an older one. */
async function run(isNew = false) {
  clearTimeout(timer);
  if (!info) return say(EARLY);
  asked.abort();
  asked = new AbortController();
  const { signal } = asked, options = { signal, most: info.limits.max_body_bytes };
  reader.hide();
  showControls();
  remember(isNew);
  if (!state.query) return clear();
  byId("board").setAttribute("aria-busy", "true");
  try {
    await firstPass(options);
    const read = Math.min(state.depth, found.hits.length), made = [];
    if (!read) return nothingFound();
    for (const model of state.models) {
      say(`${model} reads ${read} ${read === 1 ? "document" : "documents"}…`);
      made.push([model, await secondPass(model, read, options)]);
    }
    showProblem(null);
    say(outcome(show(made, read), read));
  } catch (error) {
    if (error.name === "AbortError" || signal.aborted) return;
    say("");
    showProblem(error instanceof Problem ? error : new Problem(0, `The page failed: ${error.message}`));
  } finally {
    if (!signal.aborted) byId("board").removeAttribute("aria-busy");
  }
}

function clear() {
  for (const id of ["board", "more", "stages", "views"]) byId(id).hidden = true;
  byId("empty").hidden = false;
  showProblem(null);
  say("");
}

function nothingFound() {
  clear();
  byId("empty").hidden = true;
  say("BM25 finds nothing: no document shares a word with the query, so there is nothing to read again.");
}

function submit(text) {
  const isBlank = !text.trim();
  byId("hint").hidden = !isBlank;
  byId("hint").textContent = isBlank ? "Type what you look for." : "";
  byId("query").setAttribute("aria-invalid", String(isBlank));
  if (isBlank) return byId("query").focus();
  if (!info) {
    isAskedEarly = true;
    return say(EARLY);
  }
  byId("query").value = state.query = text.trim();
  return run(true);
}

// ---- Documents of one's own.

function take(documents, name) {
  if (!info) return void (byId("texts-said").textContent = EARLY);
  own = { name, ...fitting(documents, info.limits.max_documents) };
  const stays = keep(own);
  state.own = true;
  found = null;
  byId("documents").close();
  run().then(() => {
    const most = info.limits.max_documents.toLocaleString("en");
    const left = own.left ? ` A request may have ${most}: ${own.left.toLocaleString("en")} are left out.` : "";
    const kept = stays ? "" : " They are too many to outlive a reload.";
    if (left || kept || !state.query) say(`${own.documents.length.toLocaleString("en")} documents are here.${left}${kept}${state.query ? "" : " Now ask something."}`);
  });
}

/** Read a text; says what is wrong with it, and gives null then. */
function readTexts(text, name) {
  try {
    const documents = documentsOf(text, name);
    if (!documents.length) throw new Unreadable("There is no document in it.");
    return documents;
  } catch (error) {
    byId("texts-said").textContent = error instanceof Unreadable ? error.message : `It cannot be read: ${error.message}`;
    return null;
  }
}

async function takeFile(file) {
  if (!byId("documents").open) byId("documents").showModal();
  if (!info) return void (byId("texts-said").textContent = EARLY);
  const most = info.limits.max_body_bytes;
  if (file.size > most) {
    byId("texts-said").textContent = `${file.name} has ${(file.size / 1e6).toFixed(1)} MB, and a request may have ${(most / 1e6).toFixed(1)} MB. “secondpass play ${file.name}” searches a file of any size.`;
    return;
  }
  try {
    const text = await file.text();
    if (text.includes("\0")) throw new Unreadable("it holds no text");
    const documents = readTexts(text, file.name);
    if (documents) take(documents, file.name);
  } catch (error) {
    byId("texts-said").textContent = `${file.name}: ${error.message}.`;
  }
}

function listen() {
  byId("ask").addEventListener("submit", event => { event.preventDefault(); submit(byId("query").value); });
  byId("query").addEventListener("input", () => { byId("hint").hidden = true; byId("query").setAttribute("aria-invalid", "false"); });
  const later = () => { clearTimeout(timer); timer = setTimeout(run, SETTLE_MS); };
  byId("depth").addEventListener("input", event => { state.depth = Number(event.target.value); showSaid(); later(); });
  byId("weight").addEventListener("input", event => { state.weight = Number(event.target.value); showSaid(); later(); });
  byId("long").addEventListener("change", event => { state.long = event.target.checked; run(); });
  byId("more").addEventListener("click", () => { state.all = !state.all; run(); });
  byId("problem").querySelector("button").addEventListener("click", () => info ? run() : start());
  byId("own").addEventListener("click", () => { byId("texts-said").textContent = ""; byId("documents").showModal(); });
  byId("corpus").addEventListener("click", () => { state.own = false; found = null; byId("own").focus(); run(); });
  byId("use").addEventListener("click", () => {
    const documents = readTexts(byId("texts").value, "");
    if (documents) take(documents, "Pasted");
  });
  byId("file").addEventListener("change", event => { if (event.target.files[0]) takeFile(event.target.files[0]); event.target.value = ""; });
  byId("give").addEventListener("submit", event => {
    event.preventDefault();
    const isKept = giveKey(byId("key").value.trim());
    byId("key-said").textContent = isKept ? "" : "This is no key: a key is ASCII characters without blanks.";
    if (!isKept) return;
    byId("access").close();
    if (info) run(); else start();
  });
  byId("skip").addEventListener("click", event => { event.preventDefault(); byId("results").focus(); });
  byId("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      say(state.own ? "The link is copied; your documents are not in it." : "The link is copied.");
    } catch {
      say("The browser does not let the page copy; the link is in the address bar.");
    }
  });
  addEventListener("popstate", () => { if (info) begin(); });
  addEventListener("dragover", event => { if (event.dataTransfer.types.includes("Files")) { event.preventDefault(); byId("drop").hidden = false; } });
  addEventListener("dragleave", event => { if (!event.relatedTarget) byId("drop").hidden = true; });
  addEventListener("drop", event => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    byId("drop").hidden = true;
    if (event.dataTransfer.files[0]) takeFile(event.dataTransfer.files[0]);
  });
}

async function begin() {
  const before = state.query, missing = readFragment(), typed = byId("query").value;
  // what is typed and not asked yet stays where the link asks nothing
  if (state.query || typed.trim() === before) byId("query").value = state.query;
  await run();
  if (missing) say(missing);
}

async function start() {
  if (isStarting) return;
  isStarting = true;
  try {
    const [one, other] = [await ask("info"), await ask("playground/corpus")];
    [info, corpus] = [one.value, other.value];
  } catch (error) {
    return showProblem(error instanceof Problem ? error : new Problem(0, error.message));
  } finally {
    isStarting = false;
  }
  showProblem(null);
  makeControls();
  byId("query").focus();
  const early = isAskedEarly ? byId("query").value : "";
  begin();
  if (early.trim()) submit(early);
}

listen();
start();
