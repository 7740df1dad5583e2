"""`secondpass label`: from a log of clicks, or a language model, to judgements that say where they come from."""

from __future__ import annotations

import csv
import gzip
import json
import re
import subprocess
import threading
from pathlib import Path

import pytest

pytest.importorskip("ir_measures")
pytest.importorskip("openai")

from secondpass.corpora import read_queries
from secondpass.evaluation import read_qrels
from secondpass.evaluation.clicks import query_name
from secondpass.training.data.sources import read_groups
from tests import fork_server
from tests.chat_server import Chat, running_chat
from tests.cli.conftest import command, only_line
from tests.small_collection import CORPUS, write_json_lines

ORIGIN = "judgements from clicks, position-based model"
SHOWN = {
    # query: document: (impressions, clicks) at the positions 1, 2, ...
    "reset my password": {"d1": [(60, 42), (60, 21)], "d5": [(60, 12), (60, 6)], "gone": [(0, 0), (0, 0), (40, 8)]},
    "train to Paris": {"d4": [(50, 30), (50, 15)], "d3": [(50, 10), (50, 5)], "d2": [(0, 0), (0, 0), (3, 0)]},
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A CSV of clicks with texts, a column that says nothing, and a row without a query."""
    file = tmp_path / "clicks.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["query", "doc_id", "position", "clicks", "impressions", "session_id"])
        for query, documents in SHOWN.items():
            for document, places in documents.items():
                for position, (shown, clicked) in enumerate(places, start=1):
                    if shown:
                        writer.writerow([query, document, position, clicked, shown, "s"])
        writer.writerow(["", "d1", 1, 0, 1, "s"])
    return file


def test_from_clicks_to_figures_that_say_so(run, log, tmp_path):
    """A BEIR folder that `evaluate` and training read; its origin is on terminal and page, in JSON and mined groups."""
    corpus = write_json_lines(tmp_path / "docs.jsonl", CORPUS)
    folder = tmp_path / "clicked"
    arguments = ("label", "clicks", log, "--corpus", corpus, "-o", folder, "--split", "test")
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    password, train = map(query_name, SHOWN)
    qrels = read_qrels(folder / "qrels" / "test.tsv")
    assert dict(qrels) == {password: {"d1": 3, "d5": 1}, train: {"d4": 3, "d3": 1}}
    assert (folder / "queries.jsonl").read_text().count("\n") == 2
    for line in ("1 rows have no query.", "Columns not read: session_id.", "Left unjudged: 1 pairs",
                 "Left out: 1 judgements of documents that are not in the corpus.", f"{ORIGIN}: {folder}"):  # fmt: skip
        assert line in done.stdout
    positions = [line.split() for line in done.stdout.splitlines()[1:4]]
    assert [(row[0], row[4], row[5]) for row in positions] == [
        ("1", "1.000", "the"), ("2", "0.500", "the"), ("3", "0.333", "curve"),
    ]  # fmt: skip
    assert "warning: examination of positions 3 lies on the curve" in done.stderr
    assert run(*arguments).exit_code == 0  # the same again

    trec = tmp_path / "a.trec"
    trec.write_text("".join(f"{query} Q0 d{n} {n} {9 - n} t\n" for query in (password, train) for n in range(1, 6)))
    reports = ("--html", tmp_path / "a.html", "--json", tmp_path / "a.json")
    told = run("evaluate", "--qrels", folder, "--run", trec, *reports)
    assert told.exit_code == 0, told.stderr
    assert ORIGIN in " ".join(told.stdout.split())
    assert ORIGIN in (tmp_path / "a.html").read_text()
    page = json.loads((tmp_path / "a.json").read_text())
    assert ORIGIN in page["notes"]
    assert page["settings"]["judgements"] == ORIGIN.removeprefix("judgements ")

    mined = run("mine", "-d", folder, "--split", "test", "--from", trec, "-o", tmp_path / "groups.jsonl")
    assert mined.exit_code == 0, mined.stderr
    for groups in (read_groups(tmp_path / "groups.jsonl"), read_groups(folder, split="test")):
        assert {group.label_origin for group in groups} == {"from clicks, position-based model"}


def test_a_calibration_says_whose_the_labels_are(run, tmp_path):
    """Fitted on judgements, or on groups, that are not people's."""
    pytest.importorskip("venn_abers")
    texts = {row["_id"]: f"{row['title']} {row['text']}" for row in CORPUS}
    asked = {"d1": "new password", "d2": "cat on a mat", "d3": "capital of France", "d4": "train ticket", "d5": "bank"}
    rows = [
        {"query": f"{query} {n}", "documents": list(texts.values()), "labels": [float(name == own) for name in texts],
         "label_origin": "by m"}
        for n in range(4) for own, query in asked.items()
    ]  # fmt: skip
    groups = write_json_lines(tmp_path / "groups.jsonl", rows)
    done = run("calibrate", groups, "-o", tmp_path / "a.json")
    assert done.exit_code == 0, done.stderr
    assert json.loads((tmp_path / "a.json").read_text())["origin"] == "by m"


def test_a_folder_keeps_what_it_has(run, log, beir):
    """Queries are added behind those that are there, judgements of people are never overwritten."""
    before = (beir / "queries.jsonl").read_text()
    assert "has judgements by people" in only_line(run("label", "clicks", log, "-o", beir, "--split", "test"))
    done = run("label", "clicks", log, "-o", beir)
    assert done.exit_code == 0, done.stderr
    assert (beir / "queries.jsonl").read_text().startswith(before)
    assert read_qrels(beir / "qrels" / "train.tsv").origin == "from clicks, position-based model"
    other = write_json_lines(beir.parent / "other.jsonl", CORPUS[:2])
    assert "has other documents than" in only_line(run("label", "clicks", log, "-o", beir, "--corpus", other))


def test_judgements_by_people_are_kept_in_every_form(run, log, beir):
    """Packed, which a plain file beside it would hide, and in a file of several origins."""
    qrels = beir / "qrels"
    (qrels / "packed.tsv.gz").write_bytes(gzip.compress((qrels / "test.tsv").read_bytes()))
    mixed = "query-id\tcorpus-id\tscore\torigin\nq1\td1\t2\tby m\nq2\td3\t1\t\n"
    (qrels / "mixed.tsv").write_text(mixed)
    for split, name in (("packed", "packed.tsv.gz"), ("mixed", "mixed.tsv")):
        refused = only_line(run("label", "clicks", log, "-o", beir, "--split", split))
        assert f"{name}: has judgements by people" in refused
    assert not (qrels / "packed.tsv").exists()
    assert (qrels / "mixed.tsv").read_text() == mixed


def test_a_packed_corpus_is_the_folders(run, log, beir):
    """Documents that it lacks are left out, and no second one is put beside it."""
    packed = beir / "corpus.jsonl.gz"
    packed.write_bytes(gzip.compress((beir / "corpus.jsonl").read_bytes()))
    corpus = (beir / "corpus.jsonl").rename(beir.parent / "docs.jsonl")
    for options in ((), ("--corpus", corpus)):
        done = run("label", "clicks", log, "-o", beir, *options)
        assert "Left out: 1 judgements of documents that are not in the corpus." in done.stdout, done.stderr
    assert not (beir / "corpus.jsonl").exists()
    other = write_json_lines(beir.parent / "other.jsonl", CORPUS[:2])
    refused = only_line(run("label", "clicks", log, "-o", beir, "--corpus", other))
    assert f"{packed}: has other documents than" in refused


def test_a_querys_text_may_have_other_white_space(run, log, beir):
    """A log's has lost some: the folder's stays as it is; another text is refused."""
    password = query_name("reset my password")
    queries = write_json_lines(beir / "queries.jsonl", [{"_id": password, "text": " reset  my\tpassword"}])
    done = run("label", "clicks", log, "-o", beir)
    assert done.exit_code == 0, done.stderr
    assert read_queries(queries) == {
        password: " reset  my\tpassword", query_name("train to Paris"): "train to Paris"
    }  # fmt: skip
    write_json_lines(queries, [{"_id": password, "text": "reset mypassword"}])
    assert "is 'reset mypassword' there and 'reset my password' here" in run("label", "clicks", log, "-o", beir).stderr


def test_what_is_refused_leaves_no_corpus_behind(run, log, tmp_path):
    """One without a relevant document, or beside queries with other texts: the corrected call finds the folder free."""
    folder, corpus = tmp_path / "clicked", write_json_lines(tmp_path / "docs.jsonl", CORPUS)
    wrong = write_json_lines(tmp_path / "wrong.jsonl", [{"_id": "other", "text": "a text"}])
    arguments = ("label", "clicks", log, "-o", folder, "--corpus")
    assert "wrong.jsonl: has none of the documents" in only_line(run(*arguments, wrong))
    assert not folder.exists()
    folder.mkdir()
    rows = [{"_id": query_name("reset my password"), "text": "another"}]
    queries = write_json_lines(folder / "queries.jsonl", rows)
    assert "is 'another' there" in run(*arguments, corpus).stderr
    assert list(folder.iterdir()) == [queries]
    queries.unlink()
    done = run(*arguments, corpus)
    assert done.exit_code == 0, done.stderr
    written = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    assert written == [{key: value for key, value in row.items() if value} for row in CORPUS]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "x.trec"), "neither a folder nor a file .jsonl or .tsv"),
        (("-o", "a/b.jsonl"), "there is no folder"),
        (("-o", "x.tsv", "--corpus", "docs"), "--corpus goes with a folder"),
        (("-o", "x", "--split", "a/b"), "is no name of a file"),
        (("-o", "x", "--threshold", "0.99"), "nothing reaches the lowest threshold"),
    ],
)
def test_what_clicks_are_refused_for(run, log, tmp_path, monkeypatch, arguments, message):
    """One line, and nothing is left behind."""
    monkeypatch.chdir(tmp_path)
    assert message in only_line(run("label", "clicks", log, *arguments))
    assert {file.name for file in tmp_path.iterdir()} == {log.name}


def asked_of(chat: Chat) -> list[str]:
    """The documents that were asked about."""
    return [text.split(">>>\n")[3].partition("\n")[0] for text in chat.texts]


def test_a_judge_that_was_killed_goes_on(run, beir, tmp_path):
    """Killed in the middle, it asks only what has no reply yet; then the agreement with people is printed."""
    asked, killed = threading.Event(), threading.Event()

    def reply(text: str) -> str:
        if len(chat.asked) > 3:
            asked.set()
            killed.wait(60)
        return f"grade: {3 if 'password' in text.split('<<<')[3] else 0}"

    qrels, output = beir / "qrels" / "test.tsv", tmp_path / "judged.jsonl"
    with running_chat(reply) as chat:
        options = ("--base-url", chat.address, "--model", "m", "--concurrency", "1", "--key-env", "NO_KEY")
        arguments = ("label", "judge", "-d", beir, "--qrels", qrels, "-o", output, *options)
        with fork_server.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert asked.wait(60)
            process.kill()
        killed.set()
        assert not output.exists()
        first = asked_of(chat)
        chat.asked.clear()
        chat.reply = lambda text: "grade: 1"
        done = run(*arguments)
        assert done.exit_code == 0, done.stderr
        assert len(first) == 4
        assert asked_of(chat)[0] == first[3]  # the one without a reply, then what was still to come
    found = read_qrels(output)
    assert sum(map(len, found.values())) == 6
    assert found["q1"]["d1"] == 3
    assert found.origin == "by m, prompt secondpass-1, not by people"
    assert "Judged: 6 of 6 pairs (3 asked now)." in done.stdout
    assert "Both judge 6 pairs of 4 queries; the first alone 0, the second alone 0." in done.stdout
    assert "judgements by m, prompt secondpass-1, not by people" in done.stdout
    assert not output.with_name("judged.jsonl.partial").exists()


def test_a_run_is_judged_into_a_folder(run, beir, tmp_path, monkeypatch):
    """The best documents of each query; what has no text is left out and said, a failed request keeps the journal."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret\r\n")
    trec = tmp_path / "a.trec"
    trec.write_text("".join(f"q1 Q0 {name} 1 {9 - n} t\n" for n, name in enumerate(("d2", "gone", "d3", "d4"))))
    files = ("--queries", beir / "queries.jsonl", "--corpus", beir, "--run", trec, "--depth", "3", "--retries", "0")
    said = {"The cat": "2", "The capital": (400, "{}")}
    with running_chat(lambda text: next(said[key] for key in said if key in text)) as chat:
        where = ("--base-url", chat.address, "--model", "m", "-o", tmp_path / "out")
        done = run("label", "judge", *files, *where)
        assert done.exit_code == 0, done.stderr
        assert "1 pairs stay unjudged: their documents are not in the corpus" in done.stderr
        assert "Left unjudged: 1 pairs whose request failed (query 'q1', document 'd3'" in done.stdout
        assert dict(read_qrels(tmp_path / "out" / "qrels" / "test.tsv")) == {"q1": {"d2": 2}}
        assert (tmp_path / "out" / "queries.jsonl").exists()
        assert chat.keys == {"Bearer secret"}
        assert "was begun with another judge" in run("label", "judge", *files, *where, "--model", "n").stderr
        said["The capital"] = "0"
        assert "(1 asked now)" in run("label", "judge", *files, *where).stdout
        said |= dict.fromkeys(said, (400, '{"error": {"message": "no max_tokens here"}}'))
        wrong = run("label", "judge", *files, *where[:-1], tmp_path / "none")
        assert re.search("no reply of 2 names a grade.*; 2 requests failed: .*no max_tokens here", wrong.stderr)
    for options, message in (((), "give --run, --qrels or both"), (("-r", trec, "-d", beir), "give either --dataset")):
        wrong = run("label", "judge", *options, *files[:4], *where)
        assert message in only_line(wrong)


def test_judgements_stay_where_no_agreement_can_be_said(run, beir, tmp_path):
    """No reply to a pair of people's names a grade: a note, and null in JSON. What a model refuses is not sent."""
    people, trec = tmp_path / "people.tsv", tmp_path / "a.trec"
    people.write_text("q1\td1\t1\n")
    trec.write_text("q1 Q0 d2 1 9 t\n")
    with running_chat(lambda text: "2" if "The cat" in text else "no idea") as chat:
        where = ("-o", tmp_path / "judged.tsv", "--base-url", chat.address, "--model", "m", "--key-env", "NO_KEY")
        sent = ("--max-tokens", "0", "--no-temperature")
        arguments = ("label", "judge", "-d", beir, "--qrels", people, "--run", trec, *where, *sent)
        done = run(*arguments)
        assert done.exit_code == 0, done.stderr
        assert "no agreement: the two sets of judgements have no pair" in done.stderr
        assert "Judged: 1 of 2 pairs" in done.stdout
        assert f"{tmp_path / 'judged.tsv'}" in done.stdout
        assert not {"max_tokens", "temperature"} & chat.asked[0].keys()
        told = json.loads(run(*arguments, "--json").stdout)
        assert (told["without_grade"], told["agreement"]) == (1, None)
        chat.reply = lambda text: "no idea"
        nothing = run(*arguments)
    assert "no reply of 2 names a grade" in nothing.stderr
    assert "the same with another --max-tokens asks again" in nothing.stderr
    assert dict(read_qrels(tmp_path / "judged.tsv")) == {"q1": {"d2": 2}}


def test_agreement_is_printed_and_written(run, tmp_path):
    """Kappas with intervals, the table with counts, and whose judgements these are; the same in JSON."""
    first, second = tmp_path / "a.tsv", tmp_path / "b.tsv"
    rows = [(f"q{n // 4}", f"d{n}", n % 2, 2 * (n % 2) if n % 7 else 1) for n in range(60)]
    first.write_text("".join(f"{query}\t{name}\t{grade}\n" for query, name, grade, _ in rows))
    head = "query-id\tcorpus-id\tscore\torigin\n"
    second.write_text(head + "".join(f"{query}\t{name}\t{grade}\tby m\n" for query, name, _, grade in rows))
    options = ("--qrels", first, "--qrels", second, "--relevant-from", "1", "--relevant-from", "2")
    done = run("label", "agreement", *options, "--json", tmp_path / "c.json")
    assert done.exit_code == 0, done.stderr
    assert "The second: judgements by m." in done.stdout
    assert "Relevant from grade 1 and 2: both say the same of 93 %" in done.stdout
    page = json.loads((tmp_path / "c.json").read_text())
    assert (page["pairs"], page["table"]) == (60, [[25, 5, 0], [0, 4, 26]])
    assert page["kappa"] == pytest.approx(1 - (4 / 60) / 0.5)
    assert page["kappa_interval"]["low"] < page["kappa"] < page["kappa_interval"]["high"]
    assert "--qrels is given twice" in only_line(run("label", "agreement", "--qrels", first))
