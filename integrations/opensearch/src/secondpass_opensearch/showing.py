"""What a search found, on stdout, and what the user should know of it, on stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence

from secondpass.cli.printing import Format, print_json_lines, print_table
from secondpass_opensearch import bodies
from secondpass_opensearch.candidates import MOST_WORDS, FirstPass, shortened
from secondpass_opensearch.connecting import Connected
from secondpass_opensearch.server import CA_FILE, PASSWORD, USERNAME, Server
from secondpass_opensearch.two_pass import Hit, TwoPassAnswer

SHOWN_IDS = 5
# OpenSearch reranks the hits that a search returns and no others.
RERANKED = 100


def show_hits(answer: TwoPassAnswer, output: Format) -> None:
    """Print the hits, best first; `was` is the rank that the first pass gave."""
    if output is Format.jsonl:
        print_json_lines(_row(rank, hit) for rank, hit in enumerate(answer.hits, start=1))
        return
    rows = [
        (str(rank), f"{hit.score:.4f}", str(hit.candidate.was), hit.candidate.id, _shown(hit))
        for rank, hit in enumerate(answer.hits, start=1)
    ]
    print_table(("rank", "score", "was", "id", "text"), rows)


def note_search(answer: TwoPassAnswer, first: FirstPass) -> None:
    """Say on stderr what was cut, missing or not found."""
    if not answer.hits:
        _note("no document was found")
    if shortened(first.query) != first.query and first.bm25:
        _note(f"BM25 searched for the first {MOST_WORDS} different words of the query; the second pass read all of it")
    if answer.without_text:
        names = ", ".join(first.fields)
        _note(f"{answer.without_text} of {answer.candidates} documents found have no text in {names}")
    if answer.cut:
        ids = ", ".join(answer.cut[:SHOWN_IDS]) + (", ..." if len(answer.cut) > SHOWN_IDS else "")
        _note(f"{len(answer.cut)} of {answer.candidates} cut to fit the model (id {ids})")


def ready_query(server: Server, connected: Connected, index: str, text: str, fields: Sequence[str]) -> str:
    """A search with curl that OpenSearch reranks; credentials come from the environment of whoever runs it."""
    body = json.dumps(bodies.query(text, fields[-1], RERANKED), ensure_ascii=False)
    login = f' -u "${USERNAME}:${PASSWORD}"' if server.username else ""
    authority = f' --cacert "${CA_FILE}"' if server.ca_file is not None else ""
    url = f'"{server.address}/{index}/_search?search_pipeline={connected.pipeline}&pretty"'
    return f"curl -sS{login}{authority} {url} \\\n  -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def _row(rank: int, hit: Hit) -> dict[str, object]:
    found = hit.candidate
    row: dict[str, object] = {"rank": rank, "score": hit.score, "was": found.was, "id": found.id, "index": found.index}
    row["first_pass"] = dict(found.scores)
    if found.passage is not None:
        row["passage"] = found.passage
    return {**row, "text": found.text}


def _shown(hit: Hit) -> str:
    return hit.candidate.passage or hit.candidate.text


def _note(text: str) -> None:
    print(f"secondpass: {text}", file=sys.stderr)  # noqa: T201
