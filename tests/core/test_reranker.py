"""Rules of `secondpass.reranker`: what scores and ranks without the seed's conventions."""

from __future__ import annotations

import copy
import gc
import inspect
import logging
import random
import threading
import weakref
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secondpass import CrossEncoder
from secondpass.cascade import Cascade
from secondpass.errors import InvalidInput, SecondPassError
from secondpass.keywords import CONSTRUCTOR, SCORING, accepts_renamed
from secondpass.models.loading import LoadRequest, load
from secondpass.record import CallRecord
from secondpass.reranker import Reranker, timed, warn_once
from secondpass.score_cache import ScoreCache
from secondpass.token_cache import TokenCache
from secondpass.windows import Windows
from tests.tiny_models import WORDS, make_chain, make_decoder

QUERY = "how to reset the password"
DOCUMENTS = ["the cat sat", "reset the password", "a cold river"]


def made(folder: str, max_length: int | None = None, max_documents: int | None = None) -> Reranker:
    """Make a reranker out of a folder, without a cross-encoder around it."""
    return Reranker(load(LoadRequest(folder)), nn.Sigmoid(), max_length, "longest_first", None, max_documents)


@pytest.fixture
def reranker(tiny_folder: str) -> Reranker:
    """One for this test alone."""
    return made(tiny_folder)


def test_a_ranking_is_a_value(reranker: Reranker) -> None:
    """Frozen, comparable, its documents sorted by score and carrying the logit of that score."""
    ranking = reranker.rank_many([QUERY], [DOCUMENTS])[0]
    with pytest.raises(FrozenInstanceError):
        ranking.documents = ()  # type: ignore[misc]
    scores = [ranked.score for ranked in ranking.documents]
    assert scores == sorted(scores, reverse=True)
    for ranked in ranking.documents:
        assert torch.sigmoid(torch.tensor(ranked.logit)).item() == pytest.approx(ranked.score, abs=1e-6)
    assert ranking.documents == reranker.rank_many([QUERY], [DOCUMENTS])[0].documents


def test_scores_of_several_labels_are_probabilities_of_the_label(tiny_model_folder: Callable[..., str]) -> None:
    """By default the sigmoid of the label's log-odds; the expected grade is given as it is."""
    reranker = made(tiny_model_folder("bert", 3))
    by_label = [reranker.rank_many([QUERY], [DOCUMENTS], relevance=label)[0].documents for label in range(3)]
    for index in range(len(DOCUMENTS)):
        shares = [ranked.score for documents in by_label for ranked in documents if ranked.index == index]
        assert sum(shares) == pytest.approx(1.0, abs=1e-5)
    expected = reranker.rank_many([QUERY], [DOCUMENTS], relevance="expected")[0].documents
    assert all(ranked.score == ranked.logit and 0 < ranked.score < 2 for ranked in expected)
    with pytest.raises(InvalidInput, match="relevance="):
        reranker.rank_many([QUERY], [DOCUMENTS])


def test_an_activation_of_the_call_is_applied_to_the_relevance(tiny_model_folder: Callable[..., str]) -> None:
    """Asked for one, it takes the place of the rule's own."""
    reranker = made(tiny_model_folder("bert", 2))
    ranked = reranker.rank_many([QUERY], [DOCUMENTS], relevance=1, activation_fct=nn.Identity())[0].documents
    assert all(item.score == item.logit for item in ranked)


def test_top_k_counts_for_each_query(reranker: Reranker) -> None:
    """The best of each, not of all together."""
    rankings = reranker.rank_many([QUERY, "cat"], [DOCUMENTS, DOCUMENTS[:1]], top_k=2)
    assert [len(ranking.documents) for ranking in rankings] == [2, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k=0"),
        ({"truncation": "most"}, "truncation='most' is none of longest_first"),
        ({"batch_size": 0}, "batch_size=0 is not a positive int"),
        ({"activation_fct": "sigmoid"}, "activation_fct is str, which cannot be called"),
        ({"activation_fct": nn.Sigmoid}, r"activation_fct is the class Sigmoid; give an instance"),
        ({"template": "a {query}"}, "template is str, not a PromptTemplate"),
        ({"instruction": "find " * 10_000}, "instruction"),
        ({"relevance": 1}, "relevance=1"),
        ({"min_probability": 2}, "min_probability"),
    ],
)
def test_arguments_are_checked_without_documents_too(
    own_tiny: CrossEncoder, options: dict[str, Any], message: str
) -> None:
    """A mistake does not wait for the first query that has any."""
    pairs = {name: value for name, value in options.items() if name in ("truncation", "batch_size", "activation_fct")}
    cascade = Cascade([own_tiny, own_tiny], 1)
    for texts in ([], ["a dog"]):
        calls = [lambda texts=texts, one=one: one.rank_many([QUERY], [texts], **options) for one in (own_tiny, cascade)]
        calls += [lambda texts=texts: own_tiny.rank(QUERY, texts, **options)] * ("template" not in options)
        calls += [lambda texts=texts: own_tiny.predict([(QUERY, text) for text in texts], **pairs)] * bool(pairs)
        for call in calls:
            with pytest.raises(InvalidInput, match=message):
                call()
    with pytest.raises(InvalidInput, match=r"queries\[0\] is blank"):
        own_tiny.rank_many([" "], [[]])


def test_the_window_is_the_smaller_of_wish_and_model(tiny_folder: str) -> None:
    """None takes the model's."""
    for wish, window in ((None, 128), (40, 40), (4000, 128)):
        reranker = made(tiny_folder, wish)
        assert reranker.window == reranker._window(32).max_length == window


def test_a_warning_that_would_be_the_same_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Another text is another warning."""
    with caplog.at_level(logging.WARNING, logger="secondpass.reranker"):
        for message in ("it is 100% so", "it is 100% so", "it is otherwise"):
            warn_once(message)
    assert caplog.messages == ["it is 100% so", "it is otherwise"]


def test_the_thread_that_trains_may_score(reranker: Reranker) -> None:
    """Evaluators run in the thread of `fit`; other threads are refused while it is marked."""
    reranker.training_thread = threading.get_ident()
    assert len(reranker.rank_many([QUERY], [DOCUMENTS])) == 1
    reranker.training_thread = threading.get_ident() + 1
    with pytest.raises(SecondPassError, match="being trained in another thread"):
        reranker.rank_many([QUERY], [DOCUMENTS])


def test_closing_lets_the_weights_go(reranker: Reranker) -> None:
    """Nothing of ours holds the model any longer."""
    gone: list[bool] = []
    weakref.finalize(reranker.model, gone.append, True)
    reranker.close()
    gc.collect()
    assert gone == [True]
    with pytest.raises(SecondPassError, match="is closed"):
        reranker.rank_many([QUERY], [DOCUMENTS])


def test_timed_changes_the_ranking_time_only() -> None:
    """Milliseconds since a moment."""
    record = CallRecord(1, 2, 1, 0.0, (), 1.0, 1.0, 1.0, 0.0, 0, "cpu", "float32")
    later = timed(record, 0.0)
    assert later.rank_ms > 0
    assert (later.pairs, later.tokens, later.score_ms) == (1, 2, 1.0)


def test_a_token_cache_is_used_when_given_and_no_copy_shares_it(reranker: Reranker) -> None:
    """Off by default; with one the ranking is equal; a copy fills its own."""
    assert reranker.token_cache is None
    expected = reranker.rank_many([QUERY], [DOCUMENTS])[0].documents
    cache = TokenCache()
    reranker.use_token_cache(cache)
    for _ in range(2):
        assert reranker.rank_many([QUERY], [DOCUMENTS])[0].documents == expected
    assert (cache.hits, cache.misses) == (3, 3)
    twin = copy.deepcopy(reranker)
    assert twin.rank_many([QUERY], [DOCUMENTS])[0].documents == expected
    assert twin.token_cache is not None
    assert (twin.token_cache.hits, twin.token_cache.misses, cache.misses) == (0, 3, 3)
    reranker.use_token_cache(None)
    reranker.rank_many([QUERY], [DOCUMENTS])
    assert cache.hits == 3
    reranker.close()
    with pytest.raises(SecondPassError, match="is closed"):
        reranker.use_token_cache(cache)


def test_the_type_computed_in_is_told(tiny_folder: str) -> None:
    """As in the record of a call."""
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        encoder = CrossEncoder(tiny_folder, device="cpu", precision=precision)  # type: ignore[arg-type]
        assert encoder.dtype == dtype
        record = encoder.rank_many([QUERY], [DOCUMENTS])[0].record
        assert record.dtype == str(dtype).removeprefix("torch.")


@accepts_renamed({"new": "old", "newest": "old"})
def function(old: Any, other: Any = 2) -> tuple[Any, Any]:
    """Give the arguments back."""
    return old, other


def test_either_name_reaches_the_parameter() -> None:
    """By position, by the old name or by one of the new ones."""
    assert function(1) == function(old=1) == function(new=1) == function(newest=1) == (1, 2)
    assert function(new=None, other=3) == (None, 3)


@pytest.mark.parametrize("names", [{"old": 1, "new": 1}, {"old": None, "newest": 1}, {"new": 1, "newest": 1}])
def test_two_names_for_one_parameter_are_a_mistake(names: dict[str, Any]) -> None:
    """Which one is meant is not guessed, even if both say the same."""
    with pytest.raises(TypeError, match=r"^function\(\) got both 'old' and 'new"):
        function(**names)


def test_position_and_new_name_are_a_mistake() -> None:
    """Python's own error, under the old name."""
    with pytest.raises(TypeError, match="multiple values for argument 'old'"):
        function(1, new=1)


def test_unknown_names_are_refused(reranker: Reranker) -> None:
    """Nothing is swallowed, also where the signature ends with the newer names."""
    with pytest.raises(TypeError, match="unknown"):
        function(1, unknown=1)
    for name in ("unknown", "newer"):
        with pytest.raises(TypeError, match=rf"rank_many\(\) got an unexpected keyword argument '{name}'"):
            reranker.rank_many([QUERY], [DOCUMENTS], **{name: 1})


def test_the_signature_stays() -> None:
    """Tools see the old names only."""
    assert list(inspect.signature(function).parameters) == ["old", "other"]
    assert function.__doc__ == "Give the arguments back."


@pytest.mark.parametrize(
    ("method", "names", "lacks"),
    [
        (CrossEncoder.__init__, CONSTRUCTOR, set()),
        (CrossEncoder.predict, SCORING, set()),
        (CrossEncoder.rank, SCORING, {"sentences"}),
        (CrossEncoder.rank_many, SCORING, {"sentences"}),
    ],
)
def test_every_new_name_has_its_parameter(method: Any, names: dict[str, str], lacks: set[str]) -> None:
    """The tables name parameters that exist, and no parameter is both old and new."""
    parameters = set(inspect.signature(method).parameters)
    assert set(names.values()) - parameters == lacks
    assert parameters.isdisjoint(names)


@pytest.mark.parametrize("cache", ["scores.db", ScoreCache, 0])
def test_what_is_no_cache_of_scores_is_refused(reranker: Reranker, cache: Any) -> None:
    """At once, and what was there stays."""
    with pytest.raises(InvalidInput, match="not a ScoreCache"):
        reranker.use_score_cache(cache)
    assert reranker.score_cache is None


def recalled(reranker: Reranker, **options: Any) -> tuple[list[tuple[int, float]], int]:
    """Rank by it: indices and logits, and how many pairs a cache of scores knew."""
    ranking = reranker.rank_many([QUERY], [DOCUMENTS], **options)[0]
    return [(ranked.index, ranked.logit) for ranked in ranking.documents], ranking.record.cache_hits


def test_a_cache_of_scores_knows_all_that_a_score_depends_on(tiny_folder: str) -> None:
    """What is asked again is recalled; another model, window, cut, prompt or weight asks anew, and gets its score."""
    cache = ScoreCache()
    reranker, other = CrossEncoder(tiny_folder, device="cpu"), CrossEncoder(tiny_folder, device="cpu", max_length=9)
    exact, cut = recalled(reranker)[0], recalled(other)[0]
    prompted = recalled(reranker, prompt="find: ")[0]
    for one in (reranker, other):
        one.use_score_cache(cache)
    assert recalled(reranker) == (exact, 0)
    assert recalled(reranker) == (exact, 3)
    assert recalled(reranker, prompt="find: ") == (prompted, 0)
    assert recalled(reranker, truncation="only_document") == (exact, 0)
    assert recalled(other) == (cut, 0)
    assert recalled(other) == (cut, 3)
    with torch.no_grad():
        next(reranker.model.classifier.parameters()).mul_(2.0)
    changed, hits = recalled(reranker)
    assert hits == 0
    assert changed != exact
    assert recalled(reranker) == (changed, 3)
    with torch.no_grad():
        next(reranker.model.classifier.parameters()).mul_(0.5)
    assert recalled(reranker) == (exact, 0), "made in torch now, of which nothing is kept yet"
    assert recalled(reranker) == (exact, 3)


def test_a_cache_of_scores_knows_how_a_readout_is_set(tmp_path: Path) -> None:
    """Which rows of the vocabulary are read and how states are pooled stands neither in a config nor in the weights."""
    causal, cache = str(make_decoder(tmp_path / "causal", "qwen3", chat=None, length=512)), ScoreCache()
    models = [
        CrossEncoder(causal, device="cpu", template="zerank", true_token=yes, false_token=no)
        for yes, no in (("yes", "no"), ("no", "yes"))
    ]
    models += [CrossEncoder(str(make_chain(tmp_path / mode, "bert", mode)), device="cpu") for mode in ("max", "mean")]
    models[2].model, models[3].model = (one.model for one in models[2:])  # as torch has them
    exact = [recalled(model)[0] for model in models]
    assert len({str(ranked) for ranked in exact}) == 4
    for model in models:
        model.use_score_cache(cache)
    assert [recalled(model) for model in models] == [(ranked, 0) for ranked in exact]
    assert [recalled(model) for model in models] == [(ranked, 3) for ranked in exact]


def test_the_best_window_by_another_label_is_another_entry(tiny_model_folder: Callable[..., str]) -> None:
    """Of several labels the rule says which window counts, so what is kept under one is not recalled under another."""
    reranker = CrossEncoder(tiny_model_folder("bert", 3), device="cpu")
    draw = random.Random(0)
    long = [" ".join(draw.choices(WORDS, k=150)) for _ in range(4)]
    ways: dict[str, Any] = {"truncation": Windows(tokens=20)}
    rules: list[Any] = [0, 1, 2, "expected"]
    exact = [reranker.rank_many([QUERY], [long], relevance=rule, **ways)[0].documents for rule in rules]
    assert len({document.passage for documents in exact for document in documents}) > 4
    reranker.use_score_cache(ScoreCache())
    for _ in range(2):
        assert [reranker.rank_many([QUERY], [long], relevance=rule, **ways)[0].documents for rule in rules] == exact


def test_a_recalled_pair_has_its_record(tiny_folder: str) -> None:
    """Cuts, blank documents and best passages are those of the first time; only what is new is read."""
    reranker = CrossEncoder(tiny_folder, device="cpu", max_length=16)
    documents = ["the cat sat on the mat. " * 9, "", "reset the password", "a cold river"]
    for truncation in ("longest_first", "windows"):
        expected = reranker.rank_many([QUERY], [documents], truncation=truncation)[0]
        reranker.use_score_cache(ScoreCache())
        first = reranker.rank_many([QUERY], [documents[:3]], truncation=truncation)[0]
        again = reranker.rank_many([QUERY], [documents], truncation=truncation)[0]
        reranker.use_score_cache(None)
        assert (first.record.cache_hits, again.record.cache_hits) == (0, 3)
        assert (again.documents, again.truncated) == (expected.documents, expected.truncated)


def test_who_computes_in_a_way_of_their_own_is_not_recalled(tiny_folder: str) -> None:
    """Nobody knows what hooks do, nor what a forward of somebody else computes."""
    reranker = CrossEncoder(tiny_folder, device="cpu")
    reranker.use_score_cache(ScoreCache())
    reranker.model.register_forward_hook(lambda *given: None)
    assert [recalled(reranker)[1] for _ in range(2)] == [0, 0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("quantised", [True, False])
def test_state_that_is_no_tensor_is_not_recalled(own_tiny: CrossEncoder, quantised: bool) -> None:
    """Such as torch's quantised layers have, and modules of somebody's own: they are scored as without a cache."""
    if quantised:
        own_tiny.model = torch.ao.quantization.quantize_dynamic(own_tiny.model, {nn.Linear}, dtype=torch.qint8)
    else:
        kind = type("Scaled", (nn.Dropout,), {"get_extra_state": lambda part: {"scale": 2}})
        own_tiny.model.dropout = kind(0.0)
    expected = recalled(own_tiny)[0]
    own_tiny.use_score_cache(ScoreCache())
    assert [recalled(own_tiny) for _ in range(2)] == [(expected, 0)] * 2


def test_adapters_are_not_recalled(own_tiny: CrossEncoder) -> None:
    """Which of them are on stands in no weight: what is scored without them is not what was scored with them."""
    peft = pytest.importorskip("peft")
    learnt = peft.LoraConfig(target_modules=["query", "value"], init_lora_weights=False)
    own_tiny.use_score_cache(ScoreCache())
    plain = recalled(own_tiny)[0]
    adapted = peft.inject_adapter_in_model(learnt, own_tiny.model)
    with_them, hits = recalled(own_tiny)
    for part in adapted.modules():
        if isinstance(part, peft.tuners.tuners_utils.BaseTunerLayer):
            part.enable_adapters(False)
    without, hits_then = recalled(own_tiny)
    assert (hits, hits_then) == (0, 0)
    assert dict(without) == pytest.approx(dict(plain), abs=1e-5)
    assert dict(without) != pytest.approx(dict(with_them), abs=1e-5)
