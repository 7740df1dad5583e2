/** Columns of results beside each other, and the lines between them that show what moved. */

import { content } from "./documents.js";
import { element } from "./reader.js";

const SNIPPET = 170;
const SVG = "http://www.w3.org/2000/svg";

/** From 0, the lowest, to 1; equal ones are all 1: what `secondpass.fusion` calls stretched. */
export function stretched(scores) {
  const low = Math.min(...scores), high = Math.max(...scores);
  return scores.map(score => high > low ? (score - low) / (high - low) : 1);
}

/** Places of documents by a weighted sum of two scores, best first; ties as in the first pass. */
export function fused(first, second, weight) {
  const [before, after] = [stretched(first), stretched(second)];
  const scores = before.map((score, place) => (1 - weight) * score + weight * after[place]);
  const order = scores.map((_, place) => place).sort((one, other) => scores[other] - scores[one] || one - other);
  return { scores, order };
}

const percent = value => value > 0.995 && value < 1 ? "> 99 %" : value < 0.005 && value > 0 ? "< 1 %" : `${Math.round(100 * value)} %`;
const decimals = value => Math.abs(value) >= 100 ? value.toFixed(0) : value.toFixed(Math.abs(value) >= 10 ? 1 : 2);

/** The first pass as a column: what it found, and down to where the second pass reads. */
export function firstColumn({ hits, documents, searched, matched, ms }, read) {
  const most = Math.max(...hits.map(one => one.score), 1e-9);
  return {
    name: "First pass", model: null, ms, read,
    about: `BM25 · ${matched} of ${searched.toLocaleString("en")} found`,
    hits: hits.map((one, place) => hit(documents[place], place, null, {
      score: one.score, share: one.score / most, said: one.score ? `BM25 ${decimals(one.score)}` : "no word in common",
      value: one.score ? decimals(one.score) : "–", isRead: place < read,
    })),
  };
}

/** One model's order of what the first pass found. */
export function secondColumn(model, answer, found, documents, weight) {
  const scores = answer.hits.map(one => one.score);
  // logits, as `secondpass tune` weighs them: scores near 0 and 1 tell no differences
  const sum = fused(found.slice(0, scores.length).map(one => one.score), answer.hits.map(one => one.logit), weight);
  const order = weight < 1 ? sum.order : answer.order;
  const plain = Math.min(...scores) >= 0 && Math.max(...scores) <= 1 ? scores : stretched(scores);
  const hits = order.map((place, rank) => {
    const own = answer.hits[place], has = own.probability !== null && weight === 1;
    const said = own.probability === null ? `score ${decimals(own.score)}`
      : `probability ${percent(own.probability)}, between ${percent(own.interval[0])} and ${percent(own.interval[1])}`;
    // documents stand as the first pass found them, so a place is a rank of its
    return hit(documents[place], place, place - rank, {
      score: own.score, share: weight < 1 ? sum.scores[place] : has ? own.probability : plain[place],
      interval: has ? own.interval : null, isRead: true, passage: own.passage,
      said: weight < 1 ? `fused ${decimals(sum.scores[place])}, ${said}` : said,
      value: weight < 1 ? decimals(sum.scores[place]) : has ? percent(own.probability) : decimals(own.score),
    });
  });
  const mixed = weight < 1 ? ` · counts ${Math.round(100 * weight)} %, BM25 ${Math.round(100 * (1 - weight))} %` : "";
  const kind = weight < 1 ? "" : answer.hits.some(one => one.probability !== null) ? " · probability" : "";
  return {
    name: model, model, ms: answer.ms, hits, nothing: answer.nothing, warnings: answer.warnings,
    about: `${scores.length} read${kind}${mixed}`,
  };
}

const hit = (document, place, moved, more) => ({ document, place, moved, title: titleOf(document), passage: null, ...more });

function titleOf(one) {
  if (one.title) return one.title;
  const text = content(one), short = Array.from(text.slice(0, 400)).slice(0, 72).join("");
  return short.length < text.length ? `${short.trimEnd()}…` : short;
}

function snippet(one) {
  const text = one.passage ? one.passage.text : one.document.text;
  const short = Array.from(text.slice(0, 4 * SNIPPET)).slice(0, SNIPPET).join("");
  const shown = `${one.passage?.start ? "… " : ""}${short.trim()}${short.length < text.length ? "…" : ""}`;
  const made = element("p", { className: "snippet", dir: "auto" });
  made.append(one.passage ? element("mark", {}, shown) : shown);
  return made;
}

function movement(moved) {
  if (!moved) return element("span", { className: "moved same" }, element("span", { "aria-hidden": "true" }, "="), element("span", { className: "hidden" }, "same place"));
  const up = moved > 0, by = Math.abs(moved);
  return element("span", { className: `moved ${up ? "up" : "down"}` },
    element("span", { "aria-hidden": "true" }, `${up ? "▲" : "▼"} ${by}`),
    element("span", { className: "hidden" }, `${up ? "up" : "down"} ${by} ${by === 1 ? "place" : "places"}`));
}

function bar(one) {
  const made = element("span", { className: "bar", "aria-hidden": "true" }, element("i"));
  made.firstChild.style.inlineSize = `${100 * Math.max(0, Math.min(1, one.share))}%`;
  if (one.interval) {
    const whisker = element("b");
    whisker.style.insetInlineStart = `${100 * one.interval[0]}%`;
    whisker.style.inlineSize = `${100 * (one.interval[1] - one.interval[0])}%`;
    made.append(whisker);
  }
  return made;
}

function row(one, rank, column, on) {
  const open = element("button", { type: "button", className: "open", dir: "auto", "aria-haspopup": "dialog" }, one.title);
  const made = element("li", { className: `hit${one.isRead ? "" : " unread"}`, "data-place": String(one.place) },
    element("span", { className: "rank", "aria-hidden": "true" }, String(rank)),
    element("h3", {}, open),
    one.moved === null ? null : movement(one.moved),
    one.document.title || one.passage ? snippet(one) : null,
    element("span", { className: "score" }, bar(one), element("span", { className: "value", title: one.said }, one.value,
      element("span", { className: "hidden" }, ` – ${one.said}${one.isRead ? "" : ", not read"}`))));
  open.addEventListener("click", () => on.open(one, column));
  made.addEventListener("pointerenter", () => on.light(one.place));
  made.addEventListener("pointermove", event => event.pointerType === "mouse" && on.rest(made, one, column));
  made.addEventListener("pointerleave", () => { on.light(null); on.leave(); });
  open.addEventListener("focus", () => on.light(one.place));
  open.addEventListener("blur", () => on.light(null));
  return made;
}

function column(one, number, shown, on) {
  const list = element("ol", { className: "hits" });
  one.hits.slice(0, shown).forEach((each, place) => {
    list.append(row(each, place + 1, one, on));
    if (one.model === null && place + 1 === one.read && place + 1 < Math.min(shown, one.hits.length)) {
      list.append(element("li", { className: "depth" }, `the second pass reads ${one.read}, down to here`));
    }
  });
  const name = `column-${number}`;
  const made = element("section", { className: "column", "data-column": String(number), "aria-labelledby": name },
    element("h2", { id: name }, element("bdi", {}, one.name)), element("p", { className: "about" }, one.about));
  if (one.nothing) made.append(element("p", { className: "verdict" }, "Nothing here answers the query, says the calibration."));
  for (const warning of one.warnings ?? []) made.append(element("p", { className: "warning" }, warning));
  if (one.problem) made.append(element("p", { className: "problem", role: "alert" }, one.problem));
  else made.append(list);
  return made;
}

/** The columns, and lines from each to the next one. */
export class Board {
  #place = document.getElementById("board");
  #lines = document.createElementNS(SVG, "svg");
  #columns = [];

  constructor(on) {
    this.on = { ...on, light: place => this.#light(place) };
    this.#lines.setAttribute("aria-hidden", "true");
    this.#lines.classList.add("lines");
    new ResizeObserver(() => this.#draw()).observe(this.#place);
  }

  show(columns, shown, view) {
    this.#columns = columns;
    const focused = document.activeElement?.closest?.(".hit");
    const [place, number] = [focused?.dataset.place, focused?.closest(".column")?.dataset.column];
    this.#place.style.setProperty("--columns", columns.length);
    this.#place.replaceChildren(this.#lines, ...columns.map((one, number) => column(one, number, shown, this.on)));
    this.#place.hidden = false;
    this.view(view);
    if (place) this.#place.querySelector(`[data-column="${number}"] [data-place="${place}"] .open`)?.focus({ preventScroll: true });
    this.#draw();
  }

  /** The one column that a narrow screen shows. */
  view(number) {
    for (const side of this.#place.querySelectorAll(".column")) side.classList.toggle("viewed", side.dataset.column === String(number));
    this.#draw();
  }

  #light(place) {
    for (const one of this.#place.querySelectorAll("[data-place]")) one.classList.toggle("lit", one.dataset.place === String(place));
  }

  #draw() {
    const around = this.#place.getBoundingClientRect();
    const sides = [...this.#place.querySelectorAll(".column")];
    const ends = sides.map(side => new Map([...side.querySelectorAll(".hit")].map(one => [one.dataset.place, one.getBoundingClientRect()])));
    const bottom = side => side.getBoundingClientRect().bottom - around.top;
    const made = [];
    for (let number = 0; number + 1 < sides.length; number++) {
      const [left, right] = [ends[number], ends[number + 1]];
      const from = sides[number].getBoundingClientRect().right - around.left, to = sides[number + 1].getBoundingClientRect().left - around.left;
      if (to <= from) continue;
      for (const place of new Set([...left.keys(), ...right.keys()])) {
        const [a, b] = [left.get(place), right.get(place)];
        const known = this.#columns.slice(number, number + 2).map(one => one.hits.findIndex(each => String(each.place) === place));
        if (known.includes(-1)) continue;
        const y1 = a ? a.top + a.height / 2 - around.top : bottom(sides[number]);
        const y2 = b ? b.top + b.height / 2 - around.top : bottom(sides[number + 1]);
        const line = document.createElementNS(SVG, "path"), bend = (to - from) / 2;
        line.setAttribute("d", `M${from} ${y1}C${from + bend} ${y1} ${to - bend} ${y2} ${to} ${y2}`);
        line.dataset.place = place;
        line.classList.add(known[0] > known[1] ? "up" : known[0] < known[1] ? "down" : "same");
        if (!a || !b) line.classList.add("beyond");
        made.push(line);
      }
    }
    this.#lines.replaceChildren(...made);
  }
}
