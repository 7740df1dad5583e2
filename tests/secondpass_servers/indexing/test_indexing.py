"""A whole run: nothing lost, nothing doubled, whatever the server does on the way."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from secondpass.corpora import CorpusDocument, read_corpus
from secondpass.errors import InvalidInput
from secondpass_servers.commands import run_index, summary
from secondpass_servers.contract import DocumentsRefused, IndexChanged, IndexingError, ServerAway, TooBusy
from secondpass_servers.indexing.entries import Embedding, IndexingSettings
from secondpass_servers.indexing.run import ASKED_AT_ONCE, IndexingReport, IndexingRequest, lost
from tests.secondpass_servers.indexing.conftest import rows
from tests.secondpass_servers.indexing.sinks import QUICK, MemorySink, Silent, away, busy, too_large
from tests.small_collection import write_beir, write_json_lines

ALL = {f"d{number}" for number in range(50)}


def contents(path: Path) -> dict[str, str]:
    """Content by id, as BEIR joins title and text."""
    return {document.id: document.content for document in read_corpus(path)}


def test_every_document_is_there_with_haystacks_fields(indexing, corpus, files) -> None:
    """Id and content; a blank text is indexed and counted; the journal goes when all is done."""
    sink, watch = MemorySink(), Silent()
    report = indexing(sink, watch=watch)
    assert {name: source["content"] for name, source in sink.held.items()} == contents(corpus)
    assert all(source.keys() == {"id", "content"} and source["id"] == name for name, source in sink.held.items())
    assert (report.documents, report.indexed, report.already, report.replaced, report.dead) == (50, 50, 0, 0, 0)
    assert report.blank == 1
    assert report.dead_letters is None
    assert not files.journal.exists()
    assert not files.dead_letters.exists()
    assert watch.counts[-1] == 50
    assert sink.settled >= 1


def test_a_beir_folder_is_a_corpus_too(indexing, tmp_path) -> None:
    """And so is a gzip, by the same reader."""
    sink = MemorySink()
    assert indexing(sink, path=write_beir(tmp_path / "beir")).indexed == 5
    assert sink.held["d1"]["content"].startswith("Password Reset")


def test_requests_are_bounded_and_several_are_under_way(indexing) -> None:
    """By documents, by bytes, and by their number at once."""
    both = threading.Barrier(2, timeout=10)

    def meet(number: int, batch) -> None:
        if number <= 2:
            both.wait()
        assert sum(entry.size for entry in batch) <= QUICK.max_bytes or len(batch) == 1

    sink = MemorySink(meet)
    indexing(sink)
    assert max(sink.requests) <= QUICK.max_documents
    assert sink.most_at_once == 2


def test_a_busy_server_gets_less_and_later_more_again(indexing) -> None:
    """Half after each 429, a quarter more after each success."""
    settings = replace(QUICK, max_documents=16, max_bytes=1_000_000, in_flight=1)

    def fault(number: int, batch) -> None:
        if number in (1, 2):
            raise busy(0.001)

    sink = MemorySink(fault)
    report = indexing(sink, settings)
    assert sink.requests[:3] == [16, 8, 4]
    assert max(sink.requests[3:]) > 4
    assert report.retries == 2
    assert sink.held.keys() == ALL


def test_a_server_that_needs_too_long_for_a_large_request_gets_less(indexing) -> None:
    """A time-out or a 504 is an absence; the same request again would end in the same."""
    settings = replace(QUICK, max_documents=16, max_bytes=1_000_000, in_flight=1)

    def fault(number: int, batch) -> None:
        if len(batch) > 4:
            raise away(number)

    sink = MemorySink(fault)
    indexing(sink, settings)
    assert sink.requests[:3] == [16, 8, 4]
    assert sink.held.keys() == ALL


def test_a_request_that_is_too_large_is_halved_for_good(indexing) -> None:
    """A single document that is too large for the server is a dead letter."""

    def fault(number: int, batch) -> None:
        if sum(entry.size for entry in batch) > 300:
            raise too_large()

    sink = MemorySink(fault)
    report = indexing(sink)
    large = {row["_id"] for row in rows(50)} - sink.held.keys()
    assert 0 < len(large) < 50
    assert report.dead == len(large)
    assert sum(1 for size in sink.requests if size > 1) < 12


def test_refused_documents_are_dead_letters_that_can_be_indexed(indexing, files, tmp_path) -> None:
    """Id, reason and the document; the file is a corpus again, and is not written over."""
    sink = MemorySink(lambda number, batch: {entry.id: "no good" for entry in batch if entry.id in {"d3", "d11"}})
    report = indexing(sink)
    assert (report.indexed, report.dead, report.dead_letters) == (48, 2, files.dead_letters)
    letters = [json.loads(line) for line in files.dead_letters.read_text().splitlines()]
    assert {letter["_id"]: letter["reason"] for letter in letters} == {"d3": "no good", "d11": "no good"}
    with pytest.raises(InvalidInput, match=r"docs\.dead\.jsonl: holds dead letters .*: move it away \(and index it"):
        indexing(sink, add=True)
    moved = files.dead_letters.rename(tmp_path / "moved.jsonl")
    assert indexing(MemorySink(), path=moved).indexed == 2
    mended = MemorySink()
    indexing(mended, path=moved)
    assert mended.held["d3"]["content"] == "Title 3 text 3 ä 語 \U0001f600 word word word"


@pytest.mark.parametrize("in_flight", [1, 2])
def test_documents_that_may_be_tried_again_are(indexing, in_flight) -> None:
    """Behind the others, ten times at most while those are taken; then they are dead letters with the last reason."""
    sink = MemorySink(lambda number, batch: {entry.id: "" for entry in batch if entry.id == "d5" or number < 4})
    report = indexing(sink, replace(QUICK, tries=5, in_flight=in_flight))
    assert sink.held.keys() == ALL - {"d5"}
    assert report.dead == 1


@pytest.mark.parametrize("full_from", [1, 7])
def test_a_server_that_puts_off_everything_costs_no_document(indexing, files, full_from) -> None:
    """However many tries that are: patience ends with the server's reason, and the same command goes on."""
    sink = MemorySink(lambda number, batch: {entry.id: "" for entry in batch if number >= full_from})
    with pytest.raises(TooBusy, match=r"memory test put off \d of \d documents: later; nothing got through.*goes on"):
        indexing(sink, replace(QUICK, tries=2, in_flight=1, give_up_after=0.05))
    before = len(sink.held)
    assert (before > 0) == (full_from > 1)
    assert not files.dead_letters.exists()
    second = MemorySink()
    second.held = sink.held
    report = indexing(second)
    assert (report.already, report.indexed, report.dead) == (before, 50 - before, 0)
    assert second.held.keys() == ALL


@pytest.mark.parametrize("seed", range(20))
def test_whatever_fails_in_whatever_order_nothing_is_lost(indexing, files, seed) -> None:
    """Connections that drop before or after the write, 429s, refusals of single documents, in any mixture."""
    chance = random.Random(seed)
    lock = threading.Lock()

    def fault(number: int, batch):
        with lock:
            kind = chance.random()
        if kind < 0.2:
            raise away(number)
        if kind < 0.3:
            # Written, but the answer did not arrive.
            sink.held.update({entry.id: dict(entry.source) for entry in batch})
            raise away(number)
        if kind < 0.4:
            raise busy()
        return {entry.id: "" for entry in batch[:1]} if kind < 0.5 else None

    sink = MemorySink(fault)
    report = indexing(sink, replace(QUICK, tries=50, give_up_after=60))
    assert sink.held.keys() == ALL
    assert report.indexed == 50
    assert report.retries > 0
    assert not files.journal.exists()


@pytest.mark.parametrize("failing", range(1, 14))
def test_a_run_that_breaks_anywhere_goes_on_there(indexing, files, failing) -> None:
    """No document is lost, and what was settled is not sent again."""

    def fault(number: int, batch) -> None:
        if number >= failing:
            raise away(number)

    sink = MemorySink(fault)
    with pytest.raises(ServerAway, match=r"are settled and noted in .*docs\.journal, where the same command goes on"):
        indexing(sink, replace(QUICK, give_up_after=0.003))
    before = set(sink.held)
    assert len(before) < 50
    second = MemorySink()
    second.held = sink.held
    report = indexing(second)
    assert second.held.keys() == ALL
    assert report.replaced == 0
    assert (report.already, report.indexed) == (len(before), 50 - len(before))
    assert not files.journal.exists()


def test_dead_letters_of_both_halves_of_a_broken_run_are_kept(indexing, files) -> None:
    """The file is written when a run breaks, and again by the one that continues it, each document once."""

    def fault(number: int, batch):
        if number > 6:
            raise away()
        return {entry.id: "first" for entry in batch[:1]}

    sink = MemorySink(fault)
    with pytest.raises(ServerAway):
        indexing(sink, replace(QUICK, give_up_after=0.003))
    broken = len(files.dead_letters.read_text().splitlines())
    assert broken > 0
    second = MemorySink(lambda number, batch: {entry.id: "second" for entry in batch[:1]})
    second.held = sink.held
    report = indexing(second)
    letters = [json.loads(line) for line in files.dead_letters.read_text().splitlines()]
    assert len(letters) == report.dead == len({letter["_id"] for letter in letters})
    assert [letter["reason"] for letter in letters].count("first") == broken
    assert second.held.keys() == ALL - {letter["_id"] for letter in letters}


def test_a_server_that_forgets_what_it_acknowledged_gets_it_again(indexing) -> None:
    """At the end every id is asked for."""
    sink = MemorySink()
    settle = sink.settle

    def forget() -> None:
        if sink.settled == 0:
            for name in ("d0", "d20", "d21", "d49"):
                del sink.held[name]
        settle()

    sink.settle = forget
    report = indexing(sink)
    assert sink.held.keys() == ALL
    assert (report.mended, report.indexed, report.dead) == (4, 50, 0)


def test_a_server_that_forgets_again_and_again_is_named(indexing, files) -> None:
    """The run ends with an error, and the journal stays."""
    sink = MemorySink()
    sink.settle = lambda: sink.held.pop("d20", None)
    with pytest.raises(IndexingError, match="memory test lost 1 documents that it had acknowledged, 3 times one after"):
        indexing(sink)
    assert files.journal.exists()


def test_an_index_that_is_made_anew_on_the_way_is_noticed(indexing) -> None:
    """After a time without a server, and at the end."""

    def fault(number: int, batch) -> None:
        if number == 3:
            sink.uuid = "two"
            raise away()

    sink = MemorySink(fault)
    with pytest.raises(IndexChanged, match="memory test was deleted and made anew"):
        indexing(sink)
    assert len(sink.held) < 50


def test_an_index_with_documents_is_not_added_to_unasked(indexing) -> None:
    """With `add` documents of the same id are replaced and counted."""
    sink = MemorySink()
    sink.held = {"d1": {}, "other": {}}
    with pytest.raises(InvalidInput, match="memory test holds 2 documents already"):
        indexing(sink)
    assert indexing(sink, add=True).replaced == 1
    assert sink.held.keys() == ALL | {"other"}


def broken_run(indexing) -> None:
    """Leave a journal behind."""

    def fault(number: int, batch) -> None:
        if number > 3:
            raise away()

    with pytest.raises(ServerAway):
        indexing(MemorySink(fault), replace(QUICK, give_up_after=0.003))


def test_a_journal_goes_on_with_the_same_corpus_index_and_embedding_only(indexing, corpus) -> None:
    """The message says which one changed."""
    broken_run(indexing)
    other = MemorySink()
    other.uuid = "two"
    with pytest.raises(InvalidInput, match=r"docs\.journal: was begun with another index, or the index was deleted"):
        indexing(other)
    with pytest.raises(InvalidInput, match="was begun with another embedding; delete it to begin again"):
        indexing(MemorySink(), embedding=Embedding("flat", lambda texts: [[1.0]] * len(texts)))
    write_json_lines(corpus, rows(51))
    with pytest.raises(InvalidInput, match="was begun with another corpus, or the corpus changed since"):
        indexing(MemorySink())


def test_a_corpus_that_changes_during_the_run_is_noticed(indexing, corpus) -> None:
    """Places of the journal would mean other documents."""

    def fault(number: int, batch) -> None:
        if number == 2:
            with corpus.open("a") as stream:
                stream.write("\n")

    with pytest.raises(IndexChanged, match=r"corpus\.jsonl: changed while it was indexed"):
        indexing(MemorySink(fault))


def test_a_bad_line_is_found_before_anything_is_written(indexing, tmp_path) -> None:
    """Duplicate ids and missing texts, with file and line."""
    sink = MemorySink()
    doubled = write_json_lines(tmp_path / "doubled.jsonl", [*rows(20), {"_id": "d3", "text": "again"}])
    with pytest.raises(InvalidInput, match=r"doubled\.jsonl:21: id 'd3' was given before"):
        indexing(sink, path=doubled)
    with pytest.raises(InvalidInput, match=r'bad\.jsonl:1: no "text"'):
        indexing(sink, path=write_json_lines(tmp_path / "bad.jsonl", [{"_id": "a"}]))
    assert sink.requests == []


def test_ids_that_no_index_takes_are_dead_letters(indexing, tmp_path, files) -> None:
    """512 bytes of UTF-8 at most; lone surrogates in a text are replaced."""
    given = [{"_id": "ä" * 256, "text": "fits"}, {"_id": "ä" * 257, "text": "long"}, {"_id": "s", "text": "a\ud800b"}]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    sink = MemorySink()
    report = indexing(sink, path=path)
    assert sink.held.keys() == {"ä" * 256, "s"}
    assert sink.held["s"]["content"] == "a\ufffdb"
    assert report.dead == 1
    letter = json.loads(files.dead_letters.read_text())
    assert letter["reason"] == "the id has 514 bytes, more than 512"


def test_too_many_refusals_stop_the_run(indexing, files) -> None:
    """The mapping is wrong rather than the documents; the last reason is in the message."""
    sink = MemorySink(lambda number, batch: {entry.id: "mapping" for entry in batch})
    with pytest.raises(IndexingError, match=r"memory test refused [0-9]+ documents, the last one: mapping"):
        indexing(sink, replace(QUICK, max_dead=10))
    assert 10 <= len(files.dead_letters.read_text().splitlines()) < 50


def test_documents_are_embedded_by_the_caller_s_model(indexing, corpus) -> None:
    """In batches of the request's size, the vectors beside the contents they belong to."""
    sizes = []

    def embed(texts):
        sizes.append(len(texts))
        return [[float(len(text)), 1.0] for text in texts]

    sink = MemorySink()
    indexing(sink, embedding=Embedding("length", embed))
    assert {name: source["embedding"] for name, source in sink.held.items()} == {
        name: [float(len(text)), 1.0] for name, text in contents(corpus).items()
    }
    assert max(sizes) == QUICK.max_documents


def test_an_embedding_model_that_fails_breaks_the_run_once(indexing, files) -> None:
    """NaN, another length or another number; the journal stays."""
    with pytest.raises(IndexingError, match="bad gave a vector with NaN or infinity in it"):
        indexing(MemorySink(), embedding=Embedding("bad", lambda texts: [[float("nan")]] * len(texts)))
    assert files.journal.exists()


def test_ctrl_c_keeps_what_was_settled(indexing, files) -> None:
    """Requests under way are finished and noted."""

    def interrupt(texts):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return [[1.0]] * len(texts)

    calls: list[int] = []
    sink = MemorySink()
    embedding = Embedding("one", interrupt)
    with pytest.raises(KeyboardInterrupt):
        indexing(sink, embedding=embedding)
    assert len(sink.held) > 0
    calls.append(1)
    report = indexing(sink, embedding=embedding)
    assert (report.already, report.replaced) == (50 - report.indexed, 0)
    assert sink.held.keys() == ALL


def test_patience_ends(indexing) -> None:
    """With the server's name, how long nothing got through, and where the run goes on."""
    watch = Silent()

    def fault(number: int, batch) -> None:
        raise away()

    with pytest.raises(ServerAway, match=r"memory test is away \(0\); nothing got through for 0 seconds; 0 of 50"):
        indexing(MemorySink(fault), replace(QUICK, give_up_after=0.01), watch=watch)
    assert any("next try in" in notice for notice in watch.notices)


def test_a_pipe_is_refused(indexing) -> None:
    """It could not be read again."""
    with pytest.raises(InvalidInput, match="/dev/null: not a file"):
        indexing(MemorySink(), path=Path("/dev/null"))


def test_two_runs_with_one_journal_are_refused(indexing) -> None:
    """The second one says so and leaves the first alone."""
    inside: list[str] = []

    def fault(number: int, batch) -> None:
        if number == 1:
            with pytest.raises(InvalidInput, match="another run is indexing with it") as caught:
                indexing(MemorySink())
            inside.append(str(caught.value))

    sink = MemorySink(fault)
    indexing(sink)
    assert len(inside) == 1
    assert sink.held.keys() == ALL


def test_missing_documents_are_found_in_order_and_dead_ones_are_not_missed() -> None:
    """However many questions it takes."""
    documents = [CorpusDocument(f"d{place}", "", "") for place in range(2 * ASKED_AT_ONCE + 5)]
    asked: list[int] = []

    def present(ids) -> set[str]:
        asked.append(len(ids))
        return set(ids) - {"d0", "d1500", "d2004"}

    found = list(lost(enumerate(documents), {"d1", "d2004"}, present))
    assert [[place for place, _ in chunk] for chunk in found] == [[0], [1500]]
    assert asked == [1000, 1000, 3]
    assert list(lost(enumerate(documents), set(), set)) == []


@pytest.mark.parametrize(
    "given",
    [
        {"max_documents": 0},
        {"in_flight": True},
        {"max_bytes": 1.5},
        {"give_up_after": -1.0},
        {"first_wait": float("nan")},
    ],
)
def test_what_could_not_work_is_refused_by_name(given: dict[str, object]) -> None:
    """At once, not at the first request."""
    with pytest.raises(InvalidInput, match=next(iter(given))):
        IndexingSettings(**given)


def test_a_clean_run_prints_one_line(corpus, files, capsys) -> None:
    """And one for each thing worth knowing."""
    report = run_index(IndexingRequest(corpus, MemorySink(), files, QUICK))
    lines = capsys.readouterr().out.splitlines()
    assert report.indexed == 50
    assert lines[0].startswith("50 of 50 documents indexed in ")
    assert lines[0].endswith(" documents a second: memory test")
    assert lines[1:] == ["  1 without any text"]


def test_refused_documents_make_the_command_fail(corpus, files, capsys) -> None:
    """After the summary, with the name of the file."""
    sink = MemorySink(lambda number, batch: {"d4": "no good"})
    with pytest.raises(DocumentsRefused, match=r"1 of 50 documents were refused; they are in .*docs\.dead"):
        run_index(IndexingRequest(corpus, sink, files, QUICK))
    assert "  1 refused" in capsys.readouterr().out.splitlines()


def test_waiting_is_told_once_where_there_is_no_terminal(corpus, files, capsys) -> None:
    """The same reason again and again would fill a log."""

    def fault(number: int, batch) -> None:
        if number < 9:
            raise away()

    run_index(IndexingRequest(corpus, MemorySink(fault), files, QUICK))
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith("secondpass: memory test is away (0); next try in ")


def test_the_summary_names_only_what_happened() -> None:
    """A run that found everything done has no speed."""
    report = IndexingReport(10, 10, 0, 0, 0, 0, 0, 0, 0.5, None)
    assert summary(report, "x") == [
        "0 of 10 documents indexed in 0.5 s: x",
        "  10 already indexed by the run that this one continues",
    ]
