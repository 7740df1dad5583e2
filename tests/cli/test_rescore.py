"""`secondpass rescore`: any form of candidates to one run, by parts that outlive whoever is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from secondpass import Cascade, CrossEncoder, rescoring
from secondpass.calibration import Calibration
from secondpass.candidates import CandidateFiles
from secondpass.errors import InvalidInput
from secondpass.evaluation.runs import read_run
from secondpass.rescoring import Rescorer, RunParts, begun, local
from tests.cli.conftest import Run, only_line
from tests.small_collection import CORPUS, QUERIES, write_beir, write_json_lines
from tests.tiny_models import ROUNDING, make_reranker

TEXTS = {each["_id"]: f"{each['title']} {each['text']}".strip() for each in CORPUS}
ASKED = {each["_id"]: each["text"] for each in QUERIES}
# Ids that types and sorting would spoil, and a document that says nothing.
ROWS = [
    {"query_id": query, "document_id": f"{number:03d}", "query": ASKED[query], "document": text}
    for query in ("q1", "q2", "q3")
    for number, text in enumerate([*TEXTS.values(), " "])
]


def parquet(path: Path, rows: list[dict[str, Any]] = ROWS, **types: Any) -> Path:
    """A table of rows in small row groups, with other types than strings where they are said."""
    table = pa.Table.from_pylist(rows)
    for name, kind in types.items():
        table = table.set_column(table.column_names.index(name), name, table[name].cast(kind))
    pq.write_table(table, path, row_group_size=4)
    return path


def trec(path: Path) -> Path:
    """The small collection's documents for three queries as a run."""
    lines = [f"{query} Q0 {document} 1 {rank} x" for query in ("q1", "q2", "q3") for rank, document in enumerate(TEXTS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run, in the order of its files."""
    return [row for file in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(file).to_pylist()]


def expected(encoder: CrossEncoder, rows: list[dict[str, Any]] = ROWS) -> list[dict[str, Any]]:
    """What `rank_many` makes of them, a query a call."""
    made = []
    for query in dict.fromkeys(row["query_id"] for row in rows):
        own = [row for row in rows if row["query_id"] == query]
        (ranking,) = encoder.rank_many([own[0]["query"]], [[row["document"] for row in own]])
        made += [
            {"query_id": query, "document_id": own[one.index]["document_id"], "rank": rank, "score": one.score}
            for rank, one in enumerate(ranking.documents, start=1)
        ]
    return made


@pytest.mark.parametrize("pairs", [1, 7, 1000])
def test_a_run_is_what_rank_many_says(
    run: Run, tmp_path: Path, tiny_folder: str, tiny: CrossEncoder, pairs: int
) -> None:
    """Query by query, whatever is in one part; ids stay as they are, and what says nothing is last."""
    options = ("-m", tiny_folder, "--part-pairs", str(pairs))
    result = run("rescore", parquet(tmp_path / "in.parquet"), tmp_path / "run", *options)
    assert result.exit_code == 0, result.output
    assert read(tmp_path / "run") == expected(tiny)
    assert (tmp_path / "run" / "_SUCCESS").is_file()
    parts = {1: 3, 7: 2, 1000: 1}[pairs]
    assert f"18 pairs of 3 queries in {parts} parts" in result.stderr


FORMS: dict[str, Callable[[Path], Path]] = {
    "a table whose ids are numbers": lambda path: parquet(path / "a.parquet", document_id=pa.int64()),
    "large strings and dictionaries": lambda path: parquet(
        path / "a.parquet", query=pa.large_string(), query_id=pa.dictionary(pa.int32(), pa.string())
    ),
    "lines": lambda path: write_json_lines(path / "a.jsonl", ROWS),
    "lines whose text has its other name": lambda path: write_json_lines(
        path / "a.jsonl", [{"text" if key == "document" else key: value for key, value in row.items()} for row in ROWS]
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_pairs_gives_the_same(form: str, tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """Ids are strings from end to end; a whole number is its digits."""
    made = rescored(FORMS[form](tmp_path), tmp_path / "run", tiny_folder)
    wanted = expected(tiny)
    if "numbers" in form:
        wanted = [{**row, "document_id": row["document_id"].lstrip("0") or "0"} for row in wanted]
    assert made == wanted


def rescored(path: Path, folder: Path, model: str, dataset: Path | None = None, pairs: int = 7, **options: Any) -> Any:
    """The rows of a run that this process makes."""
    with begun(folder, CandidateFiles.of(path, dataset), {"model": model, **options}, pairs=pairs) as work:
        assert len(list(local(work))) == len(work.todo)
    return read(folder)


RUNS: dict[str, Callable[[Path], Path]] = {
    "trec": trec,
    "msmarco": lambda path: (
        path.write_text("".join(f"{q}\t{d}\t{n}\n" for q in ("q1", "q2", "q3") for n, d in enumerate(TEXTS, start=1))),
        path,
    )[1],
    "rankings": lambda path: write_json_lines(
        path.with_suffix(".jsonl"), [{"query_id": query, "documents": list(TEXTS)} for query in ("q1", "q2", "q3")]
    ),
    "ids": lambda path: parquet(
        path.with_suffix(".parquet"),
        [{"query_id": query, "document_id": document} for query in ("q1", "q2", "q3") for document in TEXTS],
    ),
}


@pytest.mark.parametrize("form", RUNS)
def test_a_run_takes_its_texts_from_a_folder(form: str, tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """Title and text as BEIR joins them, read from the middle of the corpus by whoever has the part."""
    dataset = write_beir(tmp_path / "beir")
    made = rescored(RUNS[form](tmp_path / "first"), tmp_path / "run", tiny_folder, dataset)
    rows = [
        {"query_id": query, "document_id": document, "query": ASKED[query], "document": text}
        for query in ("q1", "q2", "q3")
        for document, text in TEXTS.items()
    ]
    assert made == expected(tiny, rows)


def test_files_of_a_folder_are_one(tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """In the order of their names; a query may go on in the next, and what begins with _ is none."""
    (tmp_path / "in").mkdir()
    for number, (start, stop) in enumerate([(0, 5), (5, 6), (6, 18)]):
        parquet(tmp_path / "in" / f"{number}.parquet", ROWS[start:stop])
    (tmp_path / "in" / "_SUCCESS").touch()
    assert rescored(tmp_path / "in", tmp_path / "run", tiny_folder) == expected(tiny)
    lines = tmp_path / "lines"
    lines.mkdir()
    for number, (start, stop) in enumerate([(0, 5), (5, 6), (6, 18)]):
        write_json_lines(lines / f"{number + 1}.jsonl", ROWS[start:stop])
    (lines / "0.jsonl").touch()
    assert rescored(lines, tmp_path / "again", tiny_folder, pairs=1) == expected(tiny)


# ---- What is done stays.


def killed(work: RunParts) -> Iterator[Any]:
    """An engine that dies after its first part."""
    yield next(local(work))
    raise KeyboardInterrupt


def test_a_broken_run_goes_on(tmp_path: Path, tiny_folder: str, tiny: CrossEncoder, monkeypatch: Any) -> None:
    """Parts that are there are left as they are, half a part is thrown away, and nothing comes twice."""
    files, options = CandidateFiles.of(parquet(tmp_path / "in.parquet")), {"model": tiny_folder}
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), begun(folder, files, options, pairs=1) as work:
        list(killed(work))
    assert not (folder / "_SUCCESS").exists()
    first = folder / "part-00000.parquet"
    before = first.stat().st_mtime_ns
    (folder / "_part-00001.parquet.half").write_bytes(b"PAR1")
    for read_it in (read_run, CandidateFiles.of):
        with pytest.raises(InvalidInput, match="its run is not finished"):
            read_it(folder)
    monkeypatch.setattr(CandidateFiles, "plan", lambda *_: pytest.fail("the plan is kept"))
    with begun(folder, files, options, pairs=1) as work:
        assert ([part.number for part in work.todo], [part.number for part in work.done]) == ([1, 2], [0])
        list(local(work))
    assert read(folder) == expected(tiny)
    assert first.stat().st_mtime_ns == before
    assert sorted(file.name[:6] for file in folder.iterdir()) == ["_SUCCE", "_manif", *3 * ["part-0"]]
    first.unlink()
    with begun(folder, files, options, pairs=1) as work:
        assert [part.number for part in work.todo] == [0]
    with pytest.raises(InvalidInput, match="its run is not finished"):
        read_run(folder)


def test_a_folder_has_one_run(tmp_path: Path, tiny_folder: str, tiny_model_folder: Any) -> None:
    """Other candidates, another model or other settings are refused by name; two at once, and strangers' files too."""
    path = parquet(tmp_path / "in.parquet")
    files, folder = CandidateFiles.of(path), tmp_path / "run"
    with begun(folder, files, {"model": tiny_folder, "token": "hf_secret"}) as work:
        list(local(work))
        assert "secret" not in (folder / "_manifest.jsonl").read_text()
        with pytest.raises(InvalidInput, match="another run is writing it"), begun(folder, files, {}):
            pass
    other = {"model": tiny_model_folder("roberta", 1)}
    for options, names in (({"model": tiny_folder, "max_length": 9}, "settings"), (other, "weights, settings")):
        with pytest.raises(InvalidInput, match=f"the run in it is of other {names}:"), begun(folder, files, options):
            pass
    parquet(path, ROWS[:6])
    with (
        pytest.raises(InvalidInput, match="of other rescored:"),
        begun(folder, CandidateFiles.of(path), {"model": tiny_folder}),
    ):
        pass
    with pytest.raises(InvalidInput, match="has files and no _manifest"), begun(tmp_path, files, {}):
        pass


def test_a_writer_takes_no_other_weights(tmp_path: Path, tiny_folder: str) -> None:
    """A node whose folder of that name holds another model ends the run instead of mixing scores."""
    files = CandidateFiles.of(parquet(tmp_path / "in.parquet"))
    with begun(tmp_path / "run", files, {"model": tiny_folder}) as work:
        folder, candidates, _, *rest = work.writer
        writer = rescoring.PartWriter(folder, candidates, ["0" * 64], *rest)
        with pytest.raises(OSError, match="not the weights that this run was begun with"):
            writer.load()


def test_a_run_has_one_precision(tmp_path: Path, tiny_folder: str, tiny: CrossEncoder) -> None:
    """What the first model computes in ("auto" goes by speed) holds for all that come, also after a kill."""
    files, options = CandidateFiles.of(parquet(tmp_path / "in.parquet")), {"model": tiny_folder, "precision": "bf16"}
    with begun(tmp_path / "run", files, options, pairs=1) as work:
        work.begin("float32")
        next(local(work))
    with begun(tmp_path / "run", files, options, pairs=1) as work:
        assert work.dtype == "float32"
        with pytest.raises(OSError, match="computes in bfloat16 here, and this run in float16: say its precision"):
            rescoring.PartWriter(*work.writer).load("float16")
        list(local(work))
    assert read(tmp_path / "run") == expected(tiny)


def test_a_run_is_read_as_others_are(tmp_path: Path, tiny_folder: str) -> None:
    """Its folder is a run like others, in the order of its ranks."""
    dataset = write_beir(tmp_path / "beir")
    rows = rescored(trec(tmp_path / "first.trec"), tmp_path / "run", tiny_folder, dataset)
    found = read_run(tmp_path / "run")
    assert [(query, *each) for query in found for each in found[query].items()] == [
        (row["query_id"], row["document_id"], row["score"]) for row in rows
    ]


def test_options_reach_the_model(run: Run, tmp_path: Path, tiny_model_folder: Any) -> None:
    """The best k alone, one label of several, the cache of scores; cuts are told."""
    folder, path = tiny_model_folder("bert", 3), parquet(tmp_path / "in.parquet")
    options = ("-m", folder, "-k", "2", "--relevance", "1", "--max-length", "12", "--score-cache", tmp_path / "s.db")
    for name, told in (("a", "cut to fit the model"), ("b", "18 known from the cache")):
        result = run("rescore", path, tmp_path / name, *options)
        assert result.exit_code == 0, result.output
        assert told in result.stderr
    rankings = CrossEncoder(folder, device="cpu", max_length=12).rank_many(
        [ASKED[query] for query in ("q1", "q2", "q3")], [[*TEXTS.values(), " "]] * 3, relevance=1, top_k=2
    )
    wanted = [one.score for ranking in rankings for one in ranking.documents]
    assert [row["score"] for row in read(tmp_path / "a")] == [row["score"] for row in read(tmp_path / "b")] == wanted


def test_an_instruction_goes_to_models_with_a_place(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """As in Python; a run of another one is another run."""
    judge, path = str(make_reranker(tmp_path / "judge")), parquet(tmp_path / "in.parquet")
    options = ("rescore", path, tmp_path / "run", "-m", tiny_folder, "-m", judge, "--instruction")
    result = run(*options, "find the cat")
    assert result.exit_code == 0, result.output
    queries, lists = [ASKED[query] for query in ("q1", "q2", "q3")], [[*TEXTS.values(), " "]] * 3
    rankings = Cascade([tiny_folder, judge], device="cpu").rank_many(queries, lists, instruction="find the cat")
    wanted = [one.score for ranking in rankings for one in ranking.documents]
    assert [row["score"] for row in read(tmp_path / "run")] == pytest.approx(wanted, abs=ROUNDING)
    assert "the run in it is of other settings" in run(*options, "find the dog").stderr


def test_a_saved_cascade_has_its_own_windows(run: Run, tmp_path: Path, tiny_folder: str) -> None:
    """It is rescored with; another window for it is refused, by the class and by the command."""
    saved, path = str(tmp_path / "cascade.json"), parquet(tmp_path / "in.parquet")
    Cascade([tiny_folder, tiny_folder], keep=1).save(saved)
    assert run("rescore", path, tmp_path / "a", "-m", saved).exit_code == 0
    assert "--max-length: the models" in run("rescore", path, tmp_path / "b", "-m", saved, "--max-length", "9").stderr
    with pytest.raises(InvalidInput, match="max_length: the models of"):
        Rescorer(saved, max_length=9).model  # noqa: B018 - it is loaded when it is first asked


# ---- What cannot be scored is found before anything is.

BAD: dict[str, tuple[list[dict[str, Any]], str]] = {
    "a query that comes again": ([*ROWS, ROWS[0]], "row 18: query 'q1' comes again"),
    "a document twice": ([*ROWS[:3], ROWS[1]], "row 3: document '001' of query 'q1' was given before"),
    "another text": ([ROWS[0], {**ROWS[1], "query": "else"}], "row 1: query 'q1' has another text than at"),
    "a blank query": ([{**row, "query": " "} for row in ROWS], "row 0: the text of query 'q1' is blank"),
    "no document": ([*ROWS[:5], {**ROWS[5], "document": None}], "row 5: document is null"),
    "no id": ([*ROWS[:5], {**ROWS[5], "document_id": None}], "row 5: document_id is null"),
    "an empty id": ([*ROWS[:5], {**ROWS[5], "document_id": ""}], "row 5: document_id is empty"),
    "an id that is no whole number": ([{**ROWS[0], "query_id": 1.5}], "column 'query_id' is of double"),
    "no column": ([{"query_id": "1", "query": "a"}], 'no column "document_id", "document"'),
    "nothing": ([], "no column"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named(case: str, run: Run, tmp_path: Path) -> None:
    """In a table by the row of its file, with the command's own exit code; the folder is as if nothing had been."""
    rows, message = BAD[case]
    result = run("rescore", parquet(tmp_path / "in.parquet", rows), tmp_path / "run", "--part-pairs", "2")
    assert (result.exit_code, message in only_line(result)) == (2, True), result.stderr
    assert list((tmp_path / "run").iterdir()) == []


def test_a_broken_table_is_refused(tmp_path: Path) -> None:
    """By its file and the place: bytes that are no text, a page that cannot be unpacked, two columns of one name."""
    raw = pa.array([b"q1", b"q\xff"])
    names, whole = ["query_id", "document_id", "query", "document"], pa.table([["a", "b"]] * 4, [*"abcd"])
    pages, table = tmp_path / "pages.parquet", tmp_path / "in.parquet"
    pq.write_table(whole.rename_columns(names), pages, compression="zstd", use_dictionary=False)
    content = bytearray(pages.read_bytes())
    start = content.index(b"\x28\xb5\x2f\xfd")  # zstd's own first bytes
    content[start : start + 4] = b"none"
    pages.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"pages\.parquet: row group 0 cannot be read: "):
        CandidateFiles.of(pages).plan(2, None)
    text = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    for made, message in (
        (whole.set_column(0, "a", text).rename_columns(names), "rows 0 to 1: query_id has bytes that are not UTF-8"),
        (whole.append_column("e", whole["a"]).rename_columns([*names, "query"]), "two columns are named 'query'"),
    ):
        pq.write_table(made, table)
        with pytest.raises(InvalidInput, match=rf"in\.parquet: {message}"):
            CandidateFiles.of(table).plan(2, None)
    pq.write_table(whole.set_column(3, "d", text).rename_columns(names), table)
    parts = CandidateFiles.of(table).plan(2, None)  # documents are not read
    with pytest.raises(InvalidInput, match=r"in\.parquet: rows 0 to 1: document has bytes that are not UTF-8"):
        CandidateFiles.of(table).read(parts[0], None)


def test_a_column_of_another_type_is_found_before_anything_is_scored(run: Run, tmp_path: Path) -> None:
    """Of every file, also where the file's own counts tell that no document is null."""
    (tmp_path / "in").mkdir()
    parquet(tmp_path / "in" / "1.parquet", ROWS[:6])
    numbers = [{**row, "document": number} for number, row in enumerate(ROWS[6:12])]
    parquet(tmp_path / "in" / "2.parquet", numbers)
    result = run("rescore", tmp_path / "in", tmp_path / "run", "--part-pairs", "2")
    assert (result.exit_code, list((tmp_path / "run").iterdir())) == (2, [])
    assert "2.parquet: column 'document' is of int64, not of strings" in only_line(result)


LINES: dict[str, tuple[str, str, str]] = {
    "half a pair": ("a.jsonl", json.dumps(ROWS[0])[:-9], "a.jsonl:1: not JSON"),
    "no text": ("a.jsonl", '{"query_id": "1", "document_id": 2, "query": "a"}', 'a.jsonl:1: no "document"'),
    "half a character": (
        "a.jsonl",
        '{"query_id": "1", "document_id": "\\ud800", "query": "a", "document": "b"}',
        "which Parquet cannot hold",
    ),
    "nothing": ("a.jsonl", "", "no candidate in it"),
    "a run without texts": ("a.trec", "q1 Q0 d1 1 2.0 x", "is a run, which has no texts"),
    "gzip": ("a.jsonl.gz", "", "unpack it"),
    "no table": ("a.parquet", "PAR1", "no Parquet file"),
}


@pytest.mark.parametrize("case", LINES)
def test_a_bad_line_is_named(case: str, run: Run, tmp_path: Path) -> None:
    """By file and line."""
    name, text, message = LINES[case]
    (tmp_path / name).write_text(text, encoding="utf-8")
    result = run("rescore", tmp_path / name, tmp_path / "run")
    assert (result.exit_code, message in only_line(result)) == (2, True), result.stderr


@pytest.mark.parametrize(("line", "message"), [("q9 Q0 d1 1 1 x", "no text of query 'q9'"),
                                               ("q2 Q0 d9 1 1 x", "no document 'd9'")])  # fmt: skip
def test_texts_that_are_not_there_are_named(line: str, message: str, run: Run, tmp_path: Path) -> None:
    """By the line of the run that wants them."""
    (tmp_path / "first.trec").write_text(f"q1 Q0 d1 1 1 x\n{line}\n", encoding="utf-8")
    result = run("rescore", tmp_path / "first.trec", tmp_path / "run", "-d", write_beir(tmp_path / "beir"))
    assert "first.trec:2" in only_line(result)
    assert message in result.stderr
    assert list((tmp_path / "run").iterdir()) == []


# ---- The class by itself, as Ray Data and Spark use it.


def test_a_table_gets_scores(tiny_folder: str, tiny: CrossEncoder, tmp_path: Path) -> None:
    """Of pyarrow and pandas, in the order of the rows and beside every other column; queries may come in any order."""
    rows = ROWS[::2] + ROWS[1::2]
    scores = {(row["query_id"], row["document_id"]): row["score"] for row in expected(tiny)}
    wanted = [scores[row["query_id"], row["document_id"]] for row in rows]
    rescorer = Rescorer(tiny_folder, device="cpu", score_cache=tmp_path / "scores.db")
    table = pa.Table.from_pylist(rows)
    assert rescorer(table).to_pylist() == [{**row, "score": score} for row, score in zip(rows, wanted, strict=True)]
    assert rescorer(table.to_pandas())["score"].tolist() == wanted
    assert rescorer.model.score_cache.hits == len(rows)
    for batch, message in (
        ({"query": np.array(["a"]), "document": np.array(["b"])}, "is dict, not a table"),
        (table.drop_columns(["query"]), "has the columns query_id, document_id, document"),
        (pa.table({"query": ["a", None], "document": ["b", "c"]}), r"query\[1\] is None"),
        (table.append_column("score", [wanted]), "has a column score"),
    ):
        with pytest.raises(InvalidInput, match=message):
            rescorer(batch)
    assert rescorer.score([], []).shape == (0,)
    shuffled = table.to_pandas().iloc[::-1]
    assert rescorer.score(shuffled["query"], shuffled["document"]).tolist() == wanted[::-1]
    with pytest.raises(InvalidInput, match="2 queries and 1 documents"):
        rescorer.score(["a", "a"], ["b"])


def test_a_table_gets_probabilities(tiny_folder: str, own_tiny: CrossEncoder, tmp_path: Path) -> None:
    """Where a calibration applies, of a file or the model's folder, with their intervals; also to a table without rows.

    One for another label gives none, and documents that only the first model of a cascade read have nulls.
    """
    own = Calibration("logistic", slope=9.0, low=(0.25,), high=(0.75,))
    own.save(tmp_path / "own.json")
    own_tiny.use_calibration(own)
    own_tiny.save(str(tmp_path / "model"))
    rankings = own_tiny.rank_many([row["query"] for row in ROWS], [[row["document"]] for row in ROWS])
    wanted = [ranking.documents[0].probability for ranking in rankings]
    assert None not in wanted
    table = pa.Table.from_pylist(ROWS)
    rescorers = [
        Rescorer(str(tmp_path / "model"), device="cpu"),
        Rescorer(tiny_folder, device="cpu", calibration=str(tmp_path / "own.json")),
    ]
    for rescorer in rescorers:
        made = rescorer(table)
        assert made.column_names == [*table.column_names, "score", "probability", "probability_interval"]
        assert made["probability"].to_pylist() == pytest.approx(wanted, abs=1e-6)
        assert made["probability_interval"].to_pylist() == [[0.25, 0.75]] * len(ROWS)
        assert rescorer(table.slice(0, 0)).schema == made.schema
        frame = rescorer(table.to_pandas())
        assert frame["probability"].tolist() == made["probability"].to_pylist()
        assert [list(each) for each in frame["probability_interval"]] == [[0.25, 0.75]] * len(ROWS)
        with pytest.raises(InvalidInput, match="has a column probability: rename it"):
            rescorer(table.append_column("probability", [wanted]))
    Calibration("logistic", relevance="expected").save(tmp_path / "other.json")
    other = Rescorer(tiny_folder, device="cpu", calibration=str(tmp_path / "other.json"))
    assert other(table).column_names == [*table.column_names, "score"]
    first = table.slice(0, 6)
    cascade = Rescorer([tiny_folder, str(tmp_path / "model")], keep=[2], device="cpu")
    told = cascade(first)["probability"].to_pylist()
    assert [one is None for one in told].count(False) == 2
    assert [one is None for one in cascade(first)["probability_interval"].to_pylist()] == [one is None for one in told]
