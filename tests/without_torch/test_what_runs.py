"""What README and the pages of docs/ show runs without torch, but for what trains or says that it needs it."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from benchmarks import environments
from secondpass import Cascade, CrossEncoder
from secondpass.calibration import FILE as CALIBRATION
from secondpass.serving import Settings, create_app
from tests.without_torch.conftest import Run

ROOT = environments.ROOT
README = (ROOT / "README.md").read_text(encoding="utf-8")
# What a command of README does not do here: ask a server that is not there, serve for ever, train, change a shell.
ELSEWHERE = ("elasticsearch", "opensearch", "serve", "play", "train", "export", "--install-completion")
LINES = [
    line
    for line in re.search(r"## Command line\n\n```\n(.*?)```", README, re.DOTALL)[1].splitlines()  # type: ignore[index]
    if line.split()[1] not in ELSEWHERE
]
HELP = ("", "rank", "score", "evaluate", "train", "mine", "export", "serve", "mcp", "bench", "doctor", "ask", "demo",
        "index", "search", "elasticsearch", "elasticsearch search", "opensearch", "opensearch connect")  # fmt: skip


def blocks(page: str) -> list[str]:
    """The Python of a page, a block each."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def executed(code: str, **names: object) -> dict[str, object]:
    """The names that a block of a page leaves."""
    exec(code, names)  # noqa: S102 - our own pages
    return names


def test_there_is_no_torch() -> None:
    """Nor transformers; what is declared is all there is, and less than half of what is allowed comes of us."""
    assert find_spec("torch") is None
    assert find_spec("transformers") is None


@pytest.mark.parametrize(("extras", "most"), [((), 140e6), (("haystack",), 260e6)], ids=["base", "haystack"])
def test_an_installation_is_small(extras: tuple[str, ...], most: float) -> None:
    """What pip brings for these extras, and our own package with its model, without bytecode."""
    assert environments.own_size() + environments.size(environments.declared(extras)) < most


@pytest.mark.parametrize("line", LINES)
def test_a_command_of_the_readme_runs(line: str, run: Run, here: Path) -> None:
    """As it stands there, in a folder with the files that it names."""
    # of these a part
    less = {"demo": " --queries 2", "bench": " --rounds 1 --passages 3 --no-check"}
    line = line.partition("#")[0].rstrip()
    result = run(f"{line}{less.get(line.removeprefix('secondpass '), '')}")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()


def test_long_documents_budgets_cascades_and_kept_scores(run: Run, here: Path) -> None:
    """On the command line, the second time from the file alone; and in the service."""
    line = (
        'secondpass rank "how do I reset my password" -d articles.jsonl -m secondpass/pocket -m secondpass/pocket '
        "--keep 2 --long windows --window-tokens 32 --passages --budget-ms 60000 --score-cache scores.db --format jsonl"
    )
    first, again = run(line), run(line)
    assert first.exit_code == 0, first.output
    rows = [json.loads(row) for row in first.stdout.splitlines()]
    assert [row["stage"] for row in rows] == [1, 1, 0]
    assert rows[0]["id"] == "a"
    assert all(row["scored"] and row["passage"]["text"] for row in rows)
    assert again.stdout == first.stdout
    encoder = CrossEncoder("secondpass/pocket")
    app = create_app(Settings(score_cache=str(here / "scores.db")), {"one": encoder, "best": Cascade([encoder] * 2, 1)})
    body = {"query": "how do I reset my password", "documents": [row["text"] for row in rows], "return_passages": True}
    with TestClient(app, "http://localhost") as client:
        for name in ("one", "best"):
            asked = body | {"windows": {"tokens": 32}, "model": name}
            answer = client.post("/v2/rerank", json=asked, headers={"Secondpass-Budget-Ms": "60000"})
            assert answer.headers["secondpass-complete"] == "true", answer.text
            results = answer.json()["results"]
            assert [item["index"] for item in results] == [0, 1, 2]
            assert [item["passage"]["windows"] for item in results] == [1] * 3


@pytest.mark.parametrize("command", HELP)
def test_every_command_tells_what_it_does(command: str, run: Run) -> None:
    """Its help needs nothing that it does not print."""
    result = run(f"secondpass {command} --help")
    assert result.exit_code == 0, result.output
    assert "Usage" in result.stdout


@pytest.mark.parametrize(
    "page", ["budgets", "cascades", "long-documents", "observability", "playground", "probabilities", "start"]
)
def test_the_python_of_a_page_runs(page: str, here: Path) -> None:
    """Its blocks one behind the other, with copies of the embedded model as the reader's own, and labelled queries."""
    pocket = (here / "models" / "mine").resolve()
    (here / "models" / "mine").unlink()
    for folder in ("models/mine", "small"):
        shutil.copytree(pocket, here / folder)
    documents = ["Reset a password by a link.", "A lake near Berlin.", "Bread is made of flour."]
    queries = [f"how do I reset my password {number}" for number in range(70)]
    names: dict[str, object] = {"documents": documents, "queries": queries}
    names["documents_per_query"] = [documents] * len(queries)
    names["grades"] = [[1, 0, int(number % 4 == 0)] for number in range(len(queries))]
    for code in blocks(f"docs/{page}.md"):
        exec(code, names)  # noqa: S102 - our own pages
    stored = here / "models" / "mine" / CALIBRATION
    assert stored.is_file() == (page == "probabilities")
    if page == "probabilities":
        assert CrossEncoder("models/mine").rank(queries[0], documents)[0]["probability"] > 0.5


def test_a_model_is_saved(tmp_path: Path) -> None:
    """As the files that it was loaded from: the same scores, to the bit."""
    encoder = CrossEncoder("secondpass/pocket")
    encoder.save_pretrained(str(tmp_path / "copy"))
    pairs = [("how do I reset my password", "Ask for a link."), ("bread", "")]
    assert (CrossEncoder(str(tmp_path / "copy")).predict(pairs) == encoder.predict(pairs)).all()
    assert (tmp_path / "copy" / "model.int8.safetensors").is_file()


def test_runs_are_compared(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/evaluation.md."""
    (code,) = blocks("docs/evaluation.md")
    analysis = executed(code)["analysis"]
    assert analysis.comparisons  # type: ignore[attr-defined]
    assert len(capsys.readouterr().out.splitlines()) == len(analysis.comparisons)  # type: ignore[attr-defined]


def test_sentences_are_extracted(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/rag.md."""
    (code,) = blocks("docs/rag.md")
    executed(code)
    assert capsys.readouterr().out.splitlines()[0].endswith("It relieves pain and lowers fever.")


def test_scores_are_kept(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """docs/score-cache.md: what was ranked is known when it is asked again, and is in the file."""
    (code,) = blocks("docs/score-cache.md")
    executed(code)
    assert capsys.readouterr().out == "2\n"
    assert (here / "scores.db").is_file()


def test_a_score_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/explanations.md: the answering sentence counts most."""
    (code,) = blocks("docs/explanations.md")
    executed(code)
    *counts, check = capsys.readouterr().out.splitlines()
    assert max(counts, key=lambda line: float(line.split()[0])).endswith("Berlin has 3.7 million inhabitants.")
    assert check.startswith("The sentences add up to ")


def test_a_pipeline_of_haystack_is_loaded_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """pipelines/README.md: from its YAML, with the embedded model behind BM25, and measured by the evaluators."""
    monkeypatch.chdir(ROOT)
    one, measured = sorted(blocks("pipelines/README.md"), key=lambda code: "evaluate_rerank" in code)
    found = executed(one)["found"]
    assert [document.id for document in found["ranker"]["documents"]] == ["a"]  # type: ignore[index]
    executed(measured.replace("Document(id=..., content=...)", "Document(id='a', content='To reset a password')"))


def test_free_arguments_stand_in_yaml() -> None:
    """All three dictionaries, read, written and read again; a dtype of torch's own is refused by its key."""
    from haystack import Document, Pipeline

    kind = "haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker"
    names = ("model_kwargs", "tokenizer_kwargs", "config_kwargs")
    given = {name: {"local_files_only": True, "revision": "main"} for name in names}
    text = json.dumps({"components": {"ranker": {"type": kind, "init_parameters": given}}})
    ranker = Pipeline.loads(Pipeline.loads(text).dumps()).get_component("ranker")
    assert {name: getattr(ranker, name) for name in names} == given
    documents = [Document(id="trains", content="Trains leave every hour."), Document(id="eggs", content="Boil eggs.")]
    found = ranker.run(query="how do I boil eggs", documents=documents)
    assert [document.id for document in found["documents"]] == ["eggs", "trains"]
    dtype = text.replace('"revision": "main"', '"dtype": "torch.float16"', 1)
    with pytest.raises(Exception, match=r"model_kwargs\['dtype'\] cannot be 'torch\.float16'"):
        Pipeline.loads(dtype)


def test_the_ranker_of_haystack_reads_long_documents(tmp_path: Path) -> None:
    """integrations/haystack/README.md: in windows, within a time, with scores that are kept, and as a cascade."""
    from haystack import Document
    from haystack_integrations.components.rankers.secondpass import SecondPassRanker

    long = "Bread is made of flour. " * 300 + "Berlin has 3.7 million inhabitants."
    documents = [Document(id="short", content="Trains leave every hour."), Document(id="long", content=long)]
    settings = {"truncation": "windows", "windows": {"tokens": 48}, "budget_ms": 600_000}
    for model in ("secondpass/pocket", ["secondpass/pocket"] * 2):
        ranker = SecondPassRanker(model=model, score_cache=tmp_path / "scores.db", **settings)  # type: ignore[arg-type]
        found = ranker.run(query="how many people live in Berlin", documents=documents)
        assert [document.id for document in found["documents"]] == ["long", "short"]
        assert found["passages"][0]["text"].endswith("3.7 million inhabitants.")
        assert found["complete"]


def test_the_sentence_reader_of_haystack_reads() -> None:
    """docs/rag.md."""
    from haystack import Document
    from haystack_integrations.components.readers.secondpass import SentenceReader

    documents = [
        Document(content="Trains leave every hour. Berlin has 3.7 million inhabitants."),
        Document(content="A."),
    ]
    found = SentenceReader(top_k=1).run(query="how many people live in Berlin", documents=documents)
    assert found["replies"] == ["Berlin has 3.7 million inhabitants."]


def test_the_evaluator_of_haystack_measures() -> None:
    """integrations/haystack/README.md."""
    from haystack import Document

    *_, code = blocks("integrations/haystack/README.md")
    documents = [[Document(id="a", content="x", meta={"grade": 1}), Document(id="b", content="y", meta={"grade": 0})]]
    executed(code, queries=["q"], judged=documents, retrieved=documents)
