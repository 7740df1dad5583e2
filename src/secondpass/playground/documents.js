/** Documents of the person at the page: read from what is pasted or dropped, kept in this tab alone. */

const KEPT = "secondpass.documents";
// what the first line of a table calls its columns, as `secondpass.corpora` knows them
const COLUMNS = new Set(["_id", "id", "text", "contents", "docid", "doc_id", "pid", "passage"]);
// what says something, as `secondpass.text` has it: a blank one has the logit -100, beside which all others are equal
const SAYS = /(?![\u115f\u1160\u2800\u3164\uffa0\ufffc\ufffd])[^\p{M}\p{Z}\p{Cc}\p{Cf}\p{Cs}]/u;

/** A text that is no list of documents; the message says where. */
export class Unreadable extends Error {}

const isText = value => typeof value === "string";

function fromRecord(value, place) {
  const record = isText(value) ? { text: value } : value;
  const text = record?.text ?? record?.contents ?? record?.document;
  if (!isText(text)) throw new Unreadable(`${place}: no “text” that is a string.`);
  const id = record._id ?? record.id;
  return { id: id === undefined ? null : String(id), title: isText(record.title) ? record.title : "", text };
}

function fromLines(text) {
  const made = [];
  text.split("\n").forEach((line, index) => {
    if (!line.trim()) return;
    let value;
    try {
      value = JSON.parse(line);
    } catch {
      throw new Unreadable(`Line ${index + 1}: not JSON.`);
    }
    made.push(fromRecord(value, `Line ${index + 1}`));
  });
  return made;
}

function fromTable(text) {
  const made = [];
  text.split("\n").forEach((line, index) => {
    if (!line.trim()) return;
    const columns = line.split("\t");
    if (columns.length !== 2) throw new Unreadable(`Line ${index + 1}: not an id, one tab and a text.`);
    if (index === 0 && columns.every(name => COLUMNS.has(name.trim().toLowerCase()))) return;
    made.push({ id: columns[0], title: "", text: columns[1] });
  });
  return made;
}

function isJson(line, opening) {
  if (!line.startsWith(opening)) return false;
  try {
    return typeof JSON.parse(line) === "object";
  } catch {
    return false;
  }
}

/** The documents of a text: a JSON list, JSON Lines, a table of ids and texts, paragraphs, or a text a line. */
export function documentsOf(given, name = "") {
  const text = given.replace(/^\uFEFF/, "").replace(/\r\n?/g, "\n");
  const first = text.trimStart().split("\n", 1)[0].trim();
  let made;
  if (/\.(jsonl|ndjson)$/i.test(name) || isJson(first, "{")) made = fromLines(text);
  else if (/\.json$/i.test(name) || isJson(text.trim(), "[")) {
    const list = JSON.parse(text);
    if (!Array.isArray(list)) throw new Unreadable("It is no JSON list of documents.");
    made = list.map((value, index) => fromRecord(value, `Document ${index + 1}`));
  } else if (/\.tsv$/i.test(name)) made = fromTable(text);
  else {
    const parts = /\n[ \t]*\n/.test(text.trim()) ? text.split(/\n[ \t]*\n/) : text.split("\n");
    made = parts.map(part => ({ id: null, title: "", text: part.trim() }));
  }
  return made.filter(one => SAYS.test(`${one.title}${one.text}`));
}

/** Documents that a request may have, and how many there are beyond. */
export const fitting = (documents, most) => ({ documents: documents.slice(0, most), left: Math.max(0, documents.length - most) });

/** Keep documents over a reload of the tab; false where they are too many for that. */
export function keep(own) {
  try {
    if (own === null) sessionStorage.removeItem(KEPT);
    else sessionStorage.setItem(KEPT, JSON.stringify(own));
    return true;
  } catch {
    sessionStorage.removeItem(KEPT);
    return false;
  }
}

export function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT));
  } catch {
    return null;
  }
}

/** Title and text as both passes read them. */
export const content = one => `${one.title ?? ""} ${one.text}`.trim();
