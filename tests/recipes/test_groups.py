"""What the recipe trains on: who sees what, queries of every kind, groups with the teachers' opinion."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from recipes.pocket import evaluate
from recipes.pocket.build import LONG_MAX_TOKENS, Window, token_limit
from recipes.pocket.candidates import FirstPass
from recipes.pocket.corpora import (
    DEVELOPMENT,
    Collection,
    Corpus,
    Shingles,
    apart,
    read_claims,
    read_corpus,
    whole_pages,
)
from recipes.pocket.finish import temperature
from recipes.pocket.groups import COSINE_SCALE, SHARPNESS, SURPASSES, TEACHER_WEIGHTS, VOTES, Opinions, training_groups
from recipes.pocket.queries import (
    FRAMES,
    TrainingQuery,
    all_queries,
    framed,
    read_pool,
    sentences_of,
)
from recipes.pocket.teachers import float_weights
from secondpass.evaluation.qrels import Qrels
from tests.recipes.small_data import write_all


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small collections under every name."""
    return write_all(tmp_path_factory.mktemp("data"))


EVERY = 10**6


@pytest.fixture(scope="module")
def pool(data: Path) -> Corpus:
    """All that is trained on."""
    return read_pool(data)


def test_what_decides_is_not_trained_on(data: Path, pool: Corpus) -> None:
    """No document, query or judgement of a development collection, but the encyclopaedia beside the web's passages."""
    queries = all_queries(data, pool, 17, EVERY)
    asked = {query.text for query in queries}
    for read in DEVELOPMENT.values():
        own = read(data)
        assert own.qrels.with_relevant
        assert not asked & set(own.queries.values()), own.name
        trained = {text for text in own.corpus.texts if text in pool.texts}
        beside = {t for t, name in zip(own.corpus.texts, own.corpus.ids, strict=True) if name.startswith("wiki-intro/")}
        assert trained == beside, own.name


def test_what_shares_words_with_training_does_not_decide() -> None:
    """Thirteen in a row in any case and punctuation, nor the queries that it answers; what stands beside stays."""
    words = [f"word{number}" for number in range(20)]
    trained = Shingles([f"A title\nBefore it. {' '.join(words)}", "of others", " ".join(words[3:9])])
    copied, near = ", ".join(words[2:15]).upper(), " ".join([*words[2:14], "else"])
    documents = {"own/copy": f"So: {copied}!", "own/near": near, "own/free": "nothing", "wiki-intro/w1": copied}
    corpus = Corpus("own", list(documents), list(documents.values()), [""] * 4)
    grades = {
        "copy": {"own/copy": 1},
        "both": {"own/copy": 2, "own/free": 1},
        "free": {"own/copy": 0, "own/free": 1},
        "near": {"own/near": 1},
    }
    made = apart(
        Collection("own", "web", corpus, {name: name for name in (*grades, "unjudged")}, Qrels(grades)), trained
    )
    assert made.corpus.ids == ["own/near", "own/free", "wiki-intro/w1"]
    assert list(made.queries) == ["free", "near", "unjudged"]
    assert list(made.qrels) == ["free", "near"]
    assert made.left_out == (1, 2)


def test_no_run_of_words_goes_from_one_text_to_the_next() -> None:
    """Two halves are two texts, wherever they stand; texts that are shorter, or empty, share nothing."""
    words = [f"word{number}" for number in range(26)]
    halves = [" ".join(words[:12]), " ".join(words[12:])]
    assert Shingles(halves).shared_by([" ".join(words[:13]), *halves, "", halves[1]]).tolist() == [
        False, False, True, False, True,
    ]  # fmt: skip
    assert Shingles([]).shared_by(halves).tolist() == [False, False]
    assert Shingles(halves).shared_by([]).tolist() == []


def test_copies_of_trained_texts_are_left_out_of_what_decides(tmp_path: Path) -> None:
    """Of a passage of the pool, with its query, and of a judged sentence of trecqa; the original stays beside."""
    data = write_all(tmp_path)
    pool, sentences = read_pool(data), read_corpus(data, "trecqa")
    for name, text in (
        ("boolq", pool.body(pool.ids.index("wiki-intro/d3"))),
        ("help-arduino", sentences.body(sentences.ids.index("d2"))),
    ):
        with (data / "open" / name / "corpus.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps({"_id": "copy", "title": "", "text": text.upper()}) + "\n")
    with (data / "open" / "boolq" / "queries.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps({"_id": "asked", "text": "the copy"}) + "\n")
    with (data / "open" / "boolq" / "qrels" / "train.tsv").open("a", encoding="utf-8") as out:
        out.write("asked\tcopy\t2\n")
    exams = {own.name: own for own in evaluate.development(data, EVERY)}
    left_out = {name: own.collection.left_out for name, own in exams.items()}
    assert left_out == {**dict.fromkeys(DEVELOPMENT, (0, 0)), "boolq": (1, 1), "help-arduino": (1, 0)}
    assert "copy" in read_corpus(data, "open/boolq").ids
    assert not {"boolq/copy"} & set(exams["boolq"].collection.corpus.ids)
    assert {"boolq/d3", "wiki-intro/d3"} <= set(exams["boolq"].collection.corpus.ids)
    assert "asked" not in {task.query_id for task in exams["boolq"].tasks}


def test_test_passages_are_not_trained_on(data: Path, pool: Corpus) -> None:
    """medquad's judged ones of dev and test stay out, squad's other splits, and sites of the forum that decide."""
    assert not {"medquad/d0", "medquad/d7"} & set(pool.ids)
    assert "medquad/d20" in pool.ids
    assert all(name.startswith("squad/tr") for name in pool.ids if name.startswith("squad/"))
    assert not [name for name in pool.ids if name.startswith("stackexchange/beer")]
    assert [name for name in pool.ids if name.startswith("stackexchange/coffee")]


def test_queries_of_every_kind(data: Path, pool: Corpus) -> None:
    """None twice, the same for a seed; judged ones know their rows; so many are the first ones."""
    queries = all_queries(data, pool, 17, EVERY)
    assert {query.kind for query in queries} == set(VOTES)
    assert len({query.text for query in queries}) == len(queries)
    assert queries == all_queries(data, pool, 17, EVERY) != all_queries(data, pool, 18, EVERY)
    assert any(query.relevant for query in queries)
    for query in queries:
        for row, grade in query.relevant:
            assert grade == 2
            assert pool.body(row).startswith(query.text)
    assert all_queries(data, pool, 17, 5) == queries[:5]


def test_a_framed_request_keeps_every_word() -> None:
    """In order, once, in one frame or two."""
    rng = random.Random(5)
    words = [f"word{n}" for n in range(12)]
    for _ in range(50):
        made = framed(" ".join(words), rng)
        kept = [word.strip(".?,:;") for word in made.split() if word.startswith("word")]
        assert kept == words
        assert any(made.startswith(frame.partition("{")[0]) for frame in FRAMES)


def test_sentences_have_so_many_words() -> None:
    """Shorter and longer ones are no claims."""
    assert sentences_of("One two three. One two three four five six seven. No.", 6, 8) == [
        "One two three four five six seven."
    ]


def _opinions(pool: Corpus, queries: list[TrainingQuery]) -> Opinions:
    rng = np.random.default_rng(1)

    def vectors(count: int) -> np.ndarray:
        made = rng.normal(size=(count, 16))
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float16)

    return Opinions(
        {name: vectors(len(queries)) for name in TEACHER_WEIGHTS},
        {name: vectors(len(pool.texts)) for name in TEACHER_WEIGHTS},
    )


def test_targets_are_the_teachers_mean_and_a_vote(pool: Corpus) -> None:
    """Scaled cosines by weight, and BM25's score standardised; what BM25 did not find counts as its last."""
    queries = [TrainingQuery("claim", "a cat", "a cat")]
    known = _opinions(pool, queries)
    found = known.targets("claim", 0, [3, 9], {3: 4.0, 5: 2.0})
    mean = sum(
        TEACHER_WEIGHTS[name]
        * COSINE_SCALE[name]
        * (known.documents[name][[3, 9]].astype(float) @ known.queries[name][0])
        for name in TEACHER_WEIGHTS
    ) / sum(TEACHER_WEIGHTS.values())
    assert found == pytest.approx(SHARPNESS * mean + VOTES["claim"] * np.array([1.0, -1.0]), abs=0.02)


def test_groups_show_what_was_found(pool: Corpus, bert_tokenizer: object) -> None:
    """At most eight texts, the judged one among them and labelled; in a title's group none is much better than that."""
    queries = [
        TrainingQuery("title", pool.body(row).split(".")[0], str(row), ((row, 2),))
        for row in range(0, len(pool.texts), 9)
    ]
    known = _opinions(pool, queries)
    groups = list(training_groups(pool, queries, known, Window(bert_tokenizer), 3))  # type: ignore[arg-type]
    # a judged text that most others are better than has no group
    assert len(queries) - 4 < len(groups) <= len(queries)
    for number, group in enumerate(groups):
        assert 4 <= len(group) <= 8
        assert sum(group.labels) == 1
        gold, teaching = group.labels.index(1.0), group.teaching
        assert teaching is not None
        whole = token_limit(number) > token_limit(1)
        # the window may have cut it
        assert whole or pool.texts[int(group.query)].startswith(group.documents[gold])
        assert whole or max(teaching.scores) <= teaching.scores[gold] + SURPASSES


def test_long_groups_show_passages_of_a_page(pool: Corpus, bert_tokenizer: object) -> None:
    """Those that follow one another on it, not what is next in a thinned set or in one without pages.

    A query that was made of a title sees no title.
    """
    queries = [
        TrainingQuery("title" if row % 2 else "question", pool.titles[row], str(row), source=row)
        for row in range(0, len(pool.texts), 3)
    ]
    known, window = _opinions(pool, queries), Window(bert_tokenizer)  # type: ignore[arg-type]
    groups = list(training_groups(pool, queries, known, window, 3, lambda _: LONG_MAX_TOKENS))
    assert len(groups) == len(queries)
    whole = {text: row for row, text in enumerate(pool.texts)}
    bodies = {pool.body(row): row for row in whole.values()}
    longest = 0
    for query, document in ((int(group.query), text) for group in groups for text in group.documents):
        first, *others = document.split("\n")
        found = [(bodies if query % 2 else whole)[first], *(bodies[line] for line in others)]
        assert found == list(range(found[0], found[0] + len(found)))
        if len(found) > 1:
            assert all(pool.ids[row].startswith("help-gnome/") for row in found)
            assert len({pool.ids[row].rpartition("-")[0] for row in found}) == 1
        longest = max(longest, len(found))
    assert longest > 2


@pytest.fixture
def bert_tokenizer(tiny_folder: str) -> object:
    """The tokenizer of the tiny model."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    return Tokenizer.from_str(AutoTokenizer.from_pretrained(tiny_folder).backend_tokenizer.to_str())


def test_pages_are_whole() -> None:
    """Passages of a page one behind the other, the title once."""
    corpus = Corpus("c", ["p-1", "p-2", "q-1"], ["T\none", "T\ntwo", "three"], ["T", "T", ""])
    made = whole_pages(corpus)
    assert (made.ids, made.texts) == (["p", "q"], ["T\none\ntwo", "three"])


def test_claims_have_the_sentences_that_speak_for_or_against_them(data: Path) -> None:
    """Neutral ones are judged and not relevant."""
    corpus, claims, qrels = read_claims(data)
    assert len(claims) == len(qrels) == len({*claims.values()})
    assert {grade for found in qrels.values() for grade in found.values()} == {0, 1}
    assert all(document in corpus.ids for found in qrels.values() for document in found)


def test_an_exam_is_bm25s_hundred(data: Path) -> None:
    """In its order, without texts that share no word; its own scores are its own nDCG."""
    own = evaluate.exam(DEVELOPMENT["help-arduino"](data), 5)
    assert len(own.tasks) == 5
    rows, scores = FirstPass(own.collection.corpus.texts).search([task.query for task in own.tasks])
    for number, task in enumerate(own.tasks):
        assert task.rows == [int(row) for row, score in zip(rows[number], scores[number], strict=True) if score > 0]
    flat = {task.query_id: [0.0] * len(task.rows) for task in own.tasks}
    assert own.values(flat) == own.values(own.bm25)


def test_differences_are_paired_means_over_collections() -> None:
    """Each collection counts the same, whatever its queries; the interval holds the mean."""
    one = {"a": {"1": 1.0, "2": 0.0}, "b": {"1": 0.5, "2": 0.5, "3": 0.5, "4": 0.5}}
    other = {"a": {"1": 0.0, "2": 0.0}, "b": {"1": 0.4, "2": 0.4, "3": 0.4, "4": 0.4}}
    found = evaluate.difference(one, other)
    assert found.mean == pytest.approx((0.5 + 0.1) / 2)
    assert (found.low, found.high) == (pytest.approx(0.05), pytest.approx(0.55))
    assert evaluate.mean(one) == pytest.approx(0.5)


def test_the_temperature_is_a_logistic_fit(data: Path) -> None:
    """Of a model whose logits are the judgements' own log odds, the fit changes nothing; of ten times those a tenth."""
    own = evaluate.exam(DEVELOPMENT["help-arduino"](data), 12)
    rng = np.random.default_rng(2)
    ids = own.collection.corpus.ids
    scores = {}
    for task in own.tasks:
        grades = own.qrels[task.query_id]
        scores[task.query_id] = [2.0 * (grades.get(ids[row], 0) > 0) - 1 + float(rng.normal()) for row in task.rows]
    plain = temperature([own], [scores])
    sharp = temperature([own], [{query: [10 * s for s in found] for query, found in scores.items()}])
    assert plain.scale > 0
    assert sharp.scale == pytest.approx(plain.scale / 10, rel=1e-3)
    assert sharp.bias == pytest.approx(plain.bias, abs=1e-3)


def test_integers_of_an_onnx_file_are_read_back(tmp_path: Path) -> None:
    """A linear layer's matrix lies transposed under a name of its own, which its product tells."""
    rng = np.random.default_rng(0)
    stored = {
        "embeddings.LayerNorm.weight": rng.normal(size=4).astype(np.float32),
        "onnx::MatMul_7_quantized": rng.integers(-9, 9, (4, 6)).astype(np.int8),
        "onnx::MatMul_7_scale": np.float32(0.5),
        "onnx::MatMul_7_zero_point": np.int8(2),
    }
    for table in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        name = f"embeddings.{table}.weight"
        stored |= {
            f"{name}_quantized": rng.integers(0, 9, (5, 4)).astype(np.uint8),
            f"{name}_scale": np.float32(0.25),
            f"{name}_zero_point": np.uint8(3),
        }
    node = helper.make_node(
        "MatMulInteger", ["x", "onnx::MatMul_7_quantized"], ["y"], "/encoder/layer.0/output/dense/MatMul_quant"
    )
    graph = helper.make_graph(
        [node],
        "bert",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ["n", 6])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    onnx.save(helper.make_model(graph), str(tmp_path / "m.onnx"))
    made = float_weights(tmp_path / "m.onnx")
    matrix = (stored["onnx::MatMul_7_quantized"].astype(np.float32) - 2) * 0.5
    assert np.array_equal(made["encoder.layer.0.output.dense.weight"], matrix.T)
    words = (stored["embeddings.word_embeddings.weight_quantized"].astype(np.float32) - 3) * 0.25
    assert np.array_equal(made["embeddings.word_embeddings.weight"], words)
    assert np.array_equal(made["embeddings.LayerNorm.weight"], stored["embeddings.LayerNorm.weight"])
    assert all(array.dtype == np.float32 for array in made.values())
