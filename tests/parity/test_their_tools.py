"""sentence-transformers' own evaluators and mining work on our model as on theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from secondpass import CrossEncoder
from tests.parity import their_suite

sentence_transformers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PAIRS = [
    ["how to reset the password", "reset the password by email"],
    ["how to reset the password", "a dog sat on the mat"],
    ["where is the capital of france", "paris is the capital of france"],
    ["where is the capital of france", "cook an apple"],
    ["train to london", "the second train to london"],
    ["train to london", "water the tree in the garden"],
]
SAMPLES = [
    {"query": question, "positive": [PAIRS[row][1]], "documents": [text for _, text in PAIRS]}
    for row, question in ((0, PAIRS[0][0]), (2, PAIRS[2][0]), (4, PAIRS[4][0]))
]


def evaluators() -> dict[str, Any]:
    """Each kind, by a name, with the number of labels of the model that it is for."""
    from sentence_transformers.base.evaluation import SequentialEvaluator
    from sentence_transformers.cross_encoder import evaluation

    return {
        "correlation": (1, evaluation.CrossEncoderCorrelationEvaluator(PAIRS, [1, 0, 0.9, 0.1, 0.8, 0.3], name="dev")),
        "binary": (1, evaluation.CrossEncoderClassificationEvaluator(PAIRS, [1, 0, 1, 0, 1, 0], name="dev")),
        "classes": (3, evaluation.CrossEncoderClassificationEvaluator(PAIRS, [0, 1, 2, 0, 1, 2], name="dev")),
        "reranking": (1, evaluation.CrossEncoderRerankingEvaluator(SAMPLES, name="dev")),
        "two": (
            1,
            SequentialEvaluator(
                [
                    evaluation.CrossEncoderCorrelationEvaluator(PAIRS, [1, 0, 1, 0, 1, 0], name="first"),
                    evaluation.CrossEncoderRerankingEvaluator(SAMPLES, name="second"),
                ]
            ),
        ),
    }


@pytest.mark.parametrize("kind", ["correlation", "binary", "classes", "reranking", "two"])
def test_evaluators_give_the_same_figures(tiny_model_folder: Callable[..., str], tmp_path: Path, kind: str) -> None:
    """On both engines; on ours the figures are kept for the card that is written beside the model."""
    labels, evaluator = evaluators()[kind]
    folder = tiny_model_folder("bert", labels)
    ours = CrossEncoder(folder, device="cpu")
    theirs = sentence_transformers.CrossEncoder(folder, device="cpu")
    figures = evaluator(ours, epoch=1, steps=7)
    assert figures == pytest.approx(evaluator(theirs, epoch=1, steps=7), abs=1e-5)
    kept = {name for one in ours.model_card_data.measured for name in one.metrics}
    assert kept == {name for name in figures if "_base_" not in name and name != "sequential_score"}
    assert {(one.epoch, one.step) for one in ours.model_card_data.measured} == {(1, 7)}
    ours.save(str(tmp_path))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert all(f"| {name} |" in card for name in kept)


def test_a_prompt_of_an_evaluator_is_used(tiny_folder: str) -> None:
    """`prompt_name` reaches the model's prompts; a name that it lacks is refused on both."""
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderCorrelationEvaluator

    scores = [1, 0, 0.9, 0.1, 0.8, 0.3]
    evaluator = CrossEncoderCorrelationEvaluator(PAIRS, scores, prompt_name="web")
    ours = CrossEncoder(tiny_folder, device="cpu")
    theirs = sentence_transformers.CrossEncoder(tiny_folder, device="cpu")
    for model in (ours, theirs):
        with pytest.raises(ValueError, match="web"):
            evaluator(model)
        model.prompts["web"] = "find the answer to: "
    figures = evaluator(ours)
    assert figures == pytest.approx(evaluator(theirs), abs=1e-5)
    assert figures != CrossEncoderCorrelationEvaluator(PAIRS, scores)(ours)


@pytest.mark.parametrize("options", [{"prompt": "find: "}, {"device": "cpu"}, {"prompt": "a ", "batch_size": 2}])
def test_newer_arguments_give_the_same_scores(tiny_folder: str, options: dict[str, Any]) -> None:
    """Of `predict` and `rank`."""
    ours = CrossEncoder(tiny_folder, device="cpu")
    theirs = sentence_transformers.CrossEncoder(tiny_folder, device="cpu")
    assert ours.predict(PAIRS, **options) == pytest.approx(theirs.predict(PAIRS, **options), abs=1e-5)
    documents = [text for _, text in PAIRS]
    mine, other = (model.rank(PAIRS[0][0], documents, **options) for model in (ours, theirs))
    assert [hit["corpus_id"] for hit in mine] == [hit["corpus_id"] for hit in other]
    assert {type(hit["score"]) for hit in mine + other} == {float}


def test_prompts_travel_to_them_and_back(tiny_folder: str, tmp_path: Path) -> None:
    """By name; a default one is not stored by us, since sentence-transformers would apply it and we do not."""
    ours = CrossEncoder(tiny_folder, device="cpu")
    ours.prompts["web"] = "find: "
    ours.save(str(tmp_path / "ours"))
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "ours"), device="cpu")
    assert (theirs.prompts, theirs.default_prompt_name) == ({"web": "find: "}, None)
    named = ours.predict(PAIRS, prompt_name="web")
    assert named == pytest.approx(theirs.predict(PAIRS, prompt_name="web"), abs=1e-5)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    assert CrossEncoder(str(tmp_path / "theirs"), device="cpu").prompts == {"web": "find: "}


def test_mining_hard_negatives_is_the_same(tiny_folder: str) -> None:
    """`mine_hard_negatives(cross_encoder=...)` takes ours, and mines what it mines with theirs."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from sentence_transformers.util import mine_hard_negatives

    encoder = Transformer(tiny_folder)
    retriever = sentence_transformers.SentenceTransformer(
        modules=[encoder, Pooling(encoder.get_embedding_dimension())], device="cpu"
    )
    pairs = datasets.Dataset.from_dict({"query": [p[0] for p in PAIRS[::2]], "answer": [p[1] for p in PAIRS[::2]]})
    corpus = [text for _, text in PAIRS]
    mined = [
        mine_hard_negatives(
            pairs,
            retriever,
            corpus=corpus,
            cross_encoder=cross_encoder,
            range_max=4,
            max_score=0.9,
            num_negatives=2,
            output_scores=True,
            verbose=False,
        ).to_list()
        for cross_encoder in (
            CrossEncoder(tiny_folder, device="cpu"),
            sentence_transformers.CrossEncoder(tiny_folder, device="cpu"),
        )
    ]
    assert mined[0]
    for mine, other in zip(*mined, strict=True):
        assert list(mine) == list(other)
        for name, value in mine.items():
            assert value == (other[name] if isinstance(value, str) else pytest.approx(other[name], abs=1e-5))


def test_every_known_difference_is_a_row_of_the_docs() -> None:
    """What their own tests may fail for is told to users, in the words of the row."""
    rows = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text(encoding="utf-8")
    assert their_suite.DIFFERS
    assert {reason for reason in their_suite.DIFFERS.values() if f"| {reason} |" not in rows} == set()
