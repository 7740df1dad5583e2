"""The public contract of `CrossEncoder.rank` and `rank_many`, and the records of calls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from secondpass import CallRecord, CrossEncoder
from tests.model_spy import before_forward, inputs_read

QUERY = "how to reset the password"
DOCUMENTS = ["the cat sat", "reset the password", "a cold river", "house and garden"]
PAIRS = [(QUERY, document) for document in DOCUMENTS]


@pytest.fixture
def three(tiny_model_folder: Callable[..., str]) -> CrossEncoder:
    """A model with three labels."""
    return CrossEncoder(tiny_model_folder("bert", 3), device="cpu")


# ---- rank


@pytest.mark.parametrize(
    ("options", "kind"),
    [({}, float), ({"convert_to_numpy": False}, torch.Tensor), ({"convert_to_tensor": True}, torch.Tensor)],
)
def test_hits_are_dicts_in_the_seeds_shape(tiny: CrossEncoder, options: dict[str, bool], kind: type) -> None:
    """corpus_id, score and, if asked for, text, in this order; best first; scores are those of `predict`."""
    scores = tiny.predict(PAIRS)
    hits = tiny.rank(QUERY, DOCUMENTS, **options)
    assert [list(hit) for hit in hits] == [["corpus_id", "score"]] * 4
    assert all(type(hit["corpus_id"]) is int and type(hit["score"]) is kind for hit in hits)
    assert [hit["corpus_id"] for hit in hits] == np.argsort(-scores).tolist()
    assert [float(hit["score"]) for hit in hits] == sorted(scores.tolist(), reverse=True)
    with_text = tiny.rank(QUERY, DOCUMENTS, return_documents=True, **options)
    assert [list(hit) for hit in with_text] == [["corpus_id", "score", "text"]] * 4
    assert [hit["text"] for hit in with_text] == [DOCUMENTS[hit["corpus_id"]] for hit in with_text]


def test_hits_can_be_written_as_json(tiny: CrossEncoder) -> None:
    """Scores are Python floats of float32 numbers, so they come back as they were."""
    hits = tiny.rank(QUERY, DOCUMENTS, return_documents=True)
    assert json.loads(json.dumps(hits)) == hits
    assert [np.float32(hit["score"]) for hit in hits] == [hit["score"] for hit in hits]


def test_ranking_obeys_the_activation(tiny: CrossEncoder) -> None:
    """An activation that turns scores around turns the ranking around, as the seed sorts by score."""
    turned = tiny.rank(QUERY, DOCUMENTS, activation_fct=lambda logits: -logits)
    assert [hit["corpus_id"] for hit in turned] == [hit["corpus_id"] for hit in tiny.rank(QUERY, DOCUMENTS)][::-1]


def test_several_labels_rank_by_a_rule(three: CrossEncoder) -> None:
    """Without a rule the seed's ValueError; by a label its probability, by "expected" the mean grade."""
    with pytest.raises(ValueError, match="only works for models with num_labels=1"):
        three.rank(QUERY, DOCUMENTS)
    soft = three.predict(PAIRS, apply_softmax=True)
    by_label = three.rank(QUERY, DOCUMENTS, relevance=2)
    assert [hit["corpus_id"] for hit in by_label] == np.argsort(-soft[:, 2]).tolist()
    expected = three.rank(QUERY, DOCUMENTS, relevance="expected")
    grades = soft @ np.arange(3)
    assert [hit["score"] for hit in expected] == pytest.approx(sorted(grades, reverse=True), abs=1e-5)
    ranking = three.rank_many([QUERY], [DOCUMENTS], relevance=2)[0]
    assert [ranked.index for ranked in ranking.documents] == [hit["corpus_id"] for hit in by_label]


@pytest.mark.parametrize("rule", [None, 0, "expected"])
def test_one_label_needs_no_rule(tiny: CrossEncoder, rule: Any) -> None:
    """Any rule that fits one label changes nothing."""
    assert tiny.rank(QUERY, DOCUMENTS, relevance=rule) == tiny.rank(QUERY, DOCUMENTS)


# ---- records


def test_a_record_tells_what_a_call_did(own_tiny: CrossEncoder) -> None:
    """Counts, cuts, times, device and dtype; one record for each call, appended."""
    own_tiny.max_length = 20
    records: list[CallRecord] = []
    with inputs_read(own_tiny) as read:
        own_tiny.predict([*PAIRS, ("cat", "mat " * 50)], batch_size=2, records=records)
    own_tiny.rank(QUERY, DOCUMENTS, records=records)
    own_tiny.predict([], records=records)
    first, second = records
    assert (first.pairs, first.batches, first.retries) == (5, 3, 0)
    assert first.tokens == sum(map(len, read))
    assert 0 < first.padding_share < 0.5
    assert [cut.index for cut in first.truncated] == [4]
    assert (first.device, first.dtype) == ("cpu", "float32")
    assert min(first.tokenise_ms, first.batch_ms, first.score_ms) > 0
    assert first.rank_ms == 0 < second.rank_ms


def test_a_record_names_the_type_that_computed(tiny_folder: str) -> None:
    """Scores are float32, the weights need not be."""
    encoder = CrossEncoder(tiny_folder, device="cpu", automodel_args={"dtype": torch.bfloat16})
    records: list[CallRecord] = []
    encoder.predict(PAIRS, records=records)
    assert records[0].dtype == "bfloat16"


# ---- rank_many


def test_rank_many_equals_rank_for_each_query(tiny: CrossEncoder) -> None:
    """Same order and scores as one call after the other, as Python floats, the best `top_k`."""
    queries = [QUERY, "the cat", "cold water"]
    lists = [DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[1:3]]
    rankings = tiny.rank_many(queries, lists, top_k=3)
    for query, documents, ranking in zip(queries, lists, rankings, strict=True):
        hits = tiny.rank(query, documents, top_k=3)
        assert [ranked.index for ranked in ranking.documents] == [hit["corpus_id"] for hit in hits]
        assert [ranked.score for ranked in ranking.documents] == pytest.approx([hit["score"] for hit in hits], abs=1e-6)
        assert all(type(ranked.score) is float for ranked in ranking.documents)


def test_rank_many_shares_batches_and_scores_equal_pairs_once(own_tiny: CrossEncoder) -> None:
    """Documents of different queries stand in one batch, and the record is that of the whole call."""
    sizes: list[int] = []
    with before_forward(own_tiny, lambda inputs: sizes.append(len(inputs["input_ids"]))):
        rankings = own_tiny.rank_many([QUERY, "cat", QUERY], [DOCUMENTS, DOCUMENTS, DOCUMENTS])
    assert sizes == [8]
    assert rankings[0].record == rankings[2].record
    assert rankings[0].record.pairs == 12
    assert rankings[0].documents == rankings[2].documents


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta"])
def test_rank_many_does_not_strip(tiny_model_folder: Callable[..., str], architecture: str) -> None:
    """Texts are read as they are: for these tokenizers a space in front is another text."""
    encoder = CrossEncoder(tiny_model_folder(architecture), device="cpu")
    with inputs_read(encoder) as read:
        encoder.rank_many(["cat "], [["mat  "]])
    assert read == encoder.tokenizer(["cat "], ["mat  "])["input_ids"]


def test_rank_many_reads_generators(tiny: CrossEncoder) -> None:
    """Queries and lists may be any iterables."""

    def lists() -> Iterator[Any]:
        yield iter(DOCUMENTS)
        yield tuple(DOCUMENTS[:1])

    first, second = tiny.rank_many((query for query in (QUERY, "cat")), lists())
    assert (len(first.documents), len(second.documents)) == (4, 1)
