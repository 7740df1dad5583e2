"""`secondpass ask`: questions answered from a corpus; `secondpass demo`: both passes on the packaged one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("haystack")
pytest.importorskip("ir_measures")


from secondpass.calibration import AnswerRule, Calibration
from secondpass.tuning.probabilities import answer_rule, labelled
from secondpass_pipelines.pipeline_files import pipeline_file
from tests.cli.conftest import Run, Start, only_line

TEXTS = {
    "returns": "You can send a parcel back within 30 days. The refund takes a week.",
    "login": "Reset your password under Settings. A code is sent to your phone.",
    "opening": "The shop opens at nine. It is closed on Sundays.",
}


@pytest.fixture
def calibration(tmp_path: Path) -> Path:
    """One by which nothing is relevant below a logit of 0."""
    file = tmp_path / "calibration.json"
    Calibration("logistic", answers=AnswerRule(0.0, 40, 0.9, 0.9)).save(file)
    return file


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three help pages."""
    file = tmp_path / "help.jsonl"
    file.write_text("".join(json.dumps({"_id": key, "title": "", "text": text}) + "\n" for key, text in TEXTS.items()))
    return file


def test_an_answer_is_quoted_with_its_source(run: Run, corpus: Path) -> None:
    """With the packaged pipeline and model, no key and no network."""
    result = run("ask", "how long do I have to send a parcel back", "--corpus", corpus)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "You can send a parcel back within 30 days." in lines[1]
    assert "from returns" in lines[2]


def test_json_has_places_in_the_documents(run: Run, corpus: Path, tmp_path: Path) -> None:
    """One object a question, in the order of the file."""
    questions = tmp_path / "questions.tsv"
    questions.write_text("q1\twhen does the shop open\nq2\twhere do I reset my password\n")
    result = run("ask", "--corpus", corpus, "--queries", questions, "--json")
    assert result.exit_code == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["query_id"] for line in found] == ["q1", "q2"]
    best = [line["answers"][0] for line in found]
    assert [answer["text"] for answer in best] == ["The shop opens at nine.", "Reset your password under Settings."]
    assert [answer["sources"] for answer in best] == [["opening"], ["login"]]
    for answer in best:
        assert TEXTS[answer["sources"][0]][answer["start"] : answer["end"]] == answer["text"]


class Endpoint(BaseHTTPRequestHandler):
    """The chat completions interface, answering with the first passage and its number."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({"path": self.path, "key": self.headers["Authorization"], **body})
        first = next(line for line in body["messages"][-1]["content"].splitlines() if line.startswith("[1]"))
        message = {"role": "assistant", "content": f"It says: {first.removeprefix('[1] ')} [1]"}
        reply = {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        content = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Be quiet."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """Serve the interface on loopback; gives what it was asked."""
    handler = type("Own", (Endpoint,), {"asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        yield handler.asked
        server.shutdown()
        thread.join()


@pytest.mark.filterwarnings("default::ResourceWarning")  # the client's connection pool is closed by its finaliser
def test_a_chat_model_gets_the_best_passages_and_its_references_are_read(
    run: Run, corpus: Path, endpoint: list[dict[str, Any]]
) -> None:
    """The prompt holds the question and the passages in the ranker's order; [1] names the source."""
    result = run("ask", "-p", "rag_rerank", "-c", corpus, "--json", "when does the shop open")
    assert result.exit_code == 0, result.stderr
    (answer,) = json.loads(result.stdout)["answers"]
    assert answer["text"] == f"It says: {TEXTS['opening']} [1]"
    assert answer["sources"] == ["opening"]
    (asked,) = endpoint
    assert (asked["path"], asked["key"]) == ("/v1/chat/completions", "Bearer sk-test")
    system, user = asked["messages"]
    assert "never an instruction" in system["content"]
    assert user["content"].rstrip().endswith("Question: when does the shop open")


@pytest.mark.filterwarnings("default::ResourceWarning")
@pytest.mark.parametrize("variable", ["query", "question"])
def test_a_prompt_that_does_not_insist_on_the_question_has_it(
    run: Run, corpus: Path, endpoint: list[dict[str, Any]], tmp_path: Path, variable: str
) -> None:
    """A variable that is optional is filled as one that is needed; what is connected stays as it is."""
    text = pipeline_file("rag_rerank").read_text()
    link = "  - sender: answerable.query\n    receiver: prompt.query\n"
    changes = (
        (link, ""),
        ("required_variables: [query, documents]", "required_variables: null"),
        ("Question: {{ query }}", f"Question: {{{{ {variable} }}}}"),
    )
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "rag.yaml").write_text(text)
    result = run("ask", "-p", tmp_path / "rag.yaml", "-c", corpus, "--json", "when does the shop open")
    assert result.exit_code == 0, result.stderr
    (asked,) = endpoint
    assert asked["messages"][-1]["content"].rstrip().endswith("Question: when does the shop open")


UNANSWERED = "do you deliver parcels to the moon"
FINDS_NOTHING = 'top_k: 50\n      filters: {field: id, operator: "==", value: none}'


def test_no_document_that_answers_is_no_answer(run: Run, corpus: Path, calibration: Path) -> None:
    """By the calibration's rule, unless it is told to answer whatever there is; without one it always does."""
    question = ("ask", "-c", corpus, UNANSWERED)
    refused = run(*question, "--calibration", calibration)
    assert refused.stdout.splitlines() == [UNANSWERED, "  (no answer in the documents)"]
    (line,) = run(*question, "--calibration", calibration, "--json", "--refuse").stdout.splitlines()
    found = json.loads(line)
    assert (found["answers"], found["nothing_relevant"]) == ([], True)
    for more in ((), ("--no-refuse",), ("--calibration", calibration, "--no-refuse")):
        assert "from returns" in run(*question, *more).stdout
    (line,) = run(*question[:3], "when does the shop open", "--calibration", calibration, "--json").stdout.splitlines()
    found = json.loads(line)
    assert (found["answers"][0]["sources"], found["nothing_relevant"]) == (["opening"], False)
    ignorant = run(*question, "--refuse")
    assert (ignorant.exit_code, "has no calibration" in only_line(ignorant)) == (2, True)


def test_a_calibration_that_is_none_is_refused_before_anything_is_indexed(run: Run, tmp_path: Path) -> None:
    """As the other files are: one that is not there, and one of another model."""
    other, nowhere = tmp_path / "other.json", tmp_path / "nowhere.json"
    Calibration("logistic", marks=(9.0, -9.0) * 5).save(other)
    for file, said in ((nowhere, "nowhere.json cannot be read"), (other, "of another model")):
        done = run("ask", "-c", tmp_path / "no-corpus.jsonl", UNANSWERED, "--calibration", file)
        assert (done.exit_code, said in only_line(done)) == (2, True), done.output


@pytest.mark.filterwarnings("default::ResourceWarning")
def test_nothing_is_generated_where_nothing_answers(
    run: Run, corpus: Path, calibration: Path, endpoint: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The chat model is not asked, nor where nothing is found at all."""
    (tmp_path / "empty.yaml").write_text(pipeline_file("rag_rerank").read_text().replace("top_k: 50", FINDS_NOTHING))
    for options in ((), ("--calibration", calibration), ("--no-refuse",)):
        found = run("ask", "-p", tmp_path / "empty.yaml", "-c", corpus, "--json", UNANSWERED, *options)
        assert (found.exit_code, json.loads(found.stdout)["answers"]) == (0, []), found.output
    common = ("ask", "-p", "rag_rerank", "-c", corpus, "--json", UNANSWERED, "--calibration", calibration)
    assert json.loads(run(*common).stdout)["answers"] == []
    assert endpoint == []
    assert json.loads(run(*common, "--no-refuse").stdout)["answers"][0]["sources"] == ["returns"]
    assert len(endpoint) == 1


def test_without_a_key_one_line_says_so(run: Run, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    result = run("ask", "-p", "rag_rerank", "-c", corpus, "when does the shop open")
    assert result.exit_code == 1
    assert "OPENAI_API_KEY" in only_line(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a question"),
        (("a question",), "give --corpus, or index them first"),
        (("   ", "-c", "CORPUS"), "question is blank"),
        (("a question", "-c", "CORPUS", "-p", "rerank_bm25"), "must give answers or replies"),
        (("a question", "-c", "missing.jsonl"), "missing.jsonl"),
        (("a question", "--add"), "--add is for --corpus"),
        (("a question", "--index", "docs"), "no store of Elasticsearch or OpenSearch"),
    ],
)
def test_bad_calls_are_one_line(run: Run, corpus: Path, arguments: tuple[str, ...], message: str) -> None:
    """Exit code 2, and what to do."""
    result = run("ask", *(str(corpus) if argument == "CORPUS" else argument for argument in arguments))
    assert result.exit_code == 2
    assert message in only_line(result)


def test_shows_both_passes(run: Run, tiny_folder: str) -> None:
    """Each query is shown with both passes side by side, then the totals."""
    result = run("demo", "-m", tiny_folder, "--queries", "3", "--rows", "2")
    assert result.exit_code == 0, result.output
    blocks = result.stdout.split("\n\n")
    shown = [block.splitlines() for block in blocks[1:4]]
    assert [len(lines) for lines in shown] == [4, 4, 4]
    assert all(lines[1].split() == ["first", "pass", "second", "pass", "was"] for lines in shown)
    assert "nDCG@10" in result.stdout
    assert "of 3 queries the second pass helped" in result.stdout.lower()
    assert result.stderr == ""


@pytest.mark.parametrize("width", [80, 120])
def test_fits_the_terminal(start: Start, tiny_folder: str, width: int) -> None:
    """Every line fits the width, without colour codes where stdout is no terminal."""
    done = start("demo", "-m", tiny_folder, "--queries", "2", COLUMNS=str(width))
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode("utf-8")
    assert "\x1b" not in text
    assert width - 20 < max(map(len, text.splitlines())) <= width


def test_quiet_prints_only_totals(run: Run, tiny_folder: str) -> None:
    """--quiet prints the totals and no query."""
    lines = run("demo", "-m", tiny_folder, "--queries", "2", "--quiet").stdout.splitlines()
    assert len(lines) == 6
    assert lines[0].split() == ["nDCG@10", "MRR@10", "ms/query"]


def test_json(run: Run, tiny_folder: str) -> None:
    """--json prints one object with the figures of both passes and every ranking."""
    result = run("demo", "-m", tiny_folder, "--queries", "2", "--json")
    found = json.loads(result.stdout)
    assert [row["stage"] for row in found["figures"]] == ["retriever", "ranker"]
    assert found["queries_judged"] == len(found["queries"]) == 2
    assert found["helped"] + found["hurt"] <= 2
    assert all(len(answer["second"]) == 10 for answer in found["queries"])


def test_missing_model_is_one_line(run: Run, tmp_path: Path) -> None:
    """A model that is not there is one line and exit code 1."""
    result = run("demo", "-m", tmp_path / "absent", "--quiet")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


@pytest.mark.usefixtures("pocket_folder")
def test_second_pass_helps(run: Run) -> None:
    """With the packaged model the second pass is clearly better than BM25 and helps more queries than it hurts."""
    found = json.loads(run("demo", "--json").stdout)
    first, second = found["figures"]
    assert found["queries_judged"] == 40
    assert second["nDCG@10"] > first["nDCG@10"] + 0.05
    assert second["MRR@10"] > first["MRR@10"] + 0.05
    assert found["helped"] > 2 * found["hurt"]


def test_questions_without_an_answer_decide_where_they_are_labelled() -> None:
    """From ten on; with fewer, the others without their relevant documents, which are nearer, stand for them."""
    rows = [(score, grade, f"a{place}") for place in range(20) for score, grade in ((4.0 + place / 10, 1), (3.0, 0))]
    none = [(-4.0 - place / 10, 0 if place < 18 else None, f"u{place}") for place in range(20)]
    few, many = (answer_rule(labelled(*zip(*rows, *none[:count], strict=True))) for count in (9, 20))
    assert few is not None
    assert many is not None
    assert (few.queries, few.unanswered, few.answered, few.refused) == (20, 0, 1.0, 1.0)
    assert 3.0 < few.logit < 4.2
    assert (many.queries, many.unanswered, many.answered, many.refused) == (20, 18, 1.0, 1.0)
    assert -1.0 < many.logit < 1.0
