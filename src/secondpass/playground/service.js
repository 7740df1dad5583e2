/** The service behind the page: requests, their times, and why there is no answer. */

const KEY = "secondpass.key";

/** Why there is no answer: an HTTP status (0: nobody answered), a sentence, and the request's id. */
export class Problem extends Error {
  constructor(status, message, request = "") {
    super(message);
    this.status = status;
    this.request = request;
  }
}

/** Keep a key; false where it is none: in a header others than ASCII's characters end every request. */
export function giveKey(key) {
  if (!/^[\x21-\x7e]+$/.test(key)) return false;
  sessionStorage.setItem(KEY, key);
  return true;
}

/** Forget a key that was refused; false where there was none. */
export function forgetKey() {
  const had = sessionStorage.getItem(KEY) !== null;
  sessionStorage.removeItem(KEY);
  return had;
}

const SILENT = "The service does not answer. Is it still running?";

/** The JSON of an answer, and the milliseconds until it was there; paths stand beside the page, whatever is before it. */
export async function ask(path, body, { signal, most = Infinity } = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const request = { signal, headers, cache: "no-store", credentials: "same-origin" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    request.method = "POST";
    request.body = JSON.stringify(body);
    const size = new Blob([request.body]).size;
    if (size > most) {
      throw new Problem(413, `These documents have ${bytes(size)}, and a request may have ${bytes(most)}: take fewer, or a lower depth.`);
    }
  }
  const began = performance.now();
  let answer, told;
  try {
    answer = await fetch(new URL(path, document.baseURI), request);
    told = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, SILENT);
  }
  const ms = performance.now() - began;
  let value;
  try {
    value = JSON.parse(told);
  } catch {
    throw new Problem(answer.status, `Something that is not the service answered, with status ${answer.status}.`);
  }
  if (!answer.ok) throw new Problem(answer.status, String(value.message ?? `status ${answer.status}`), String(value.request_id ?? ""));
  return { value, ms };
}

const bytes = size => size < 1e6 ? `${Math.ceil(size / 1e3)} kB` : `${(size / 1e6).toFixed(1)} MB`;

/** Scores of documents by one model, in the order of the documents, with what the answer says beside them. */
export async function rerank(model, query, documents, long, options) {
  const body = { model, query, documents, return_documents: false, return_logits: true, windows: long, ...(long ? { return_passages: true } : {}) };
  const { value, ms } = await ask("v2/rerank", body, options);
  const hits = new Array(documents.length);
  for (const one of value.results) {
    // a document that was read in one piece is no passage of itself; of a long one perhaps a single window is read
    const passage = one.passage && one.passage.text.trim() !== documents[one.index].trim() ? one.passage : null;
    hits[one.index] = {
      score: one.relevance_score,
      logit: one.logit,
      probability: one.probability ?? null,
      interval: one.probability_interval ?? null,
      passage,
    };
  }
  return {
    hits, ms,
    order: value.results.map(one => one.index),
    tokens: value.usage.total_tokens,
    nothing: value.meta.nothing_relevant === true,
    warnings: value.meta.warnings ?? [],
  };
}
