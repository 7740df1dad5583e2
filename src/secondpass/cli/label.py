"""`secondpass label`: judgements without people, out of clicks or by a language model, and how far judgements agree."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from secondpass.cli import arguments
from secondpass.cli.output import INTERRUPTED, PipeConsole, note, print_json, print_table, progress_bar
from secondpass.corpora import CorpusDocument, named_file, read_corpus, read_queries, survey
from secondpass.errors import InvalidInput
from secondpass.evaluation.clicks import (
    ETA,
    LEAST_SEEN,
    PRIOR,
    SURE,
    THRESHOLDS,
    ClickLabels,
    ClickLog,
    PositionModel,
    click_labels,
    fit_positions,
)
from secondpass.evaluation.judge import Agreement, ChatJudge, JudgeResult, UnjudgedPair, agreement, judge_pairs
from secondpass.evaluation.qrels import Qrels, read_qrels, write_qrels
from secondpass.evaluation.reporting.files import opened
from secondpass.evaluation.reporting.wording import number, percent, span
from secondpass.evaluation.runs import read_run
from secondpass.text import is_blank

commands = typer.Typer(
    help="Judgements without people: from clicks, or by a language model; always marked as such.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
)

OUTPUT_HELP = "BEIR folder (queries.jsonl, qrels/SPLIT.tsv), or a file .jsonl or .tsv of judgements alone."
Labels = Annotated[Path, typer.Option("--output", "-o", help=OUTPUT_HELP)]
SPLIT_HELP = "Name of the judgements in the folder."


# ---- Where judgements go.
@dataclass(frozen=True, slots=True)
class Target:
    """The file that judgements are written to, and the BEIR folder around it if there is one."""

    file: Path
    folder: Path | None

    @classmethod
    def of(cls, output: Path, split: str) -> Target:
        """Refuses, before there is anything to write, what cannot be written to or has people's judgements."""
        if output.suffix in (".jsonl", ".tsv") and not output.is_dir():
            target = cls(output, None)
            if not output.absolute().parent.is_dir():
                raise InvalidInput(f"{output}: there is no folder {output.absolute().parent}")
        elif output.suffix and not output.is_dir():
            raise InvalidInput(
                f"{output}: neither a folder nor a file .jsonl or .tsv, which hold where labels come from"
            )
        elif not split or Path(split).name != split:
            raise InvalidInput(f"--split {split!r} is no name of a file")
        else:
            target = cls(output / "qrels" / f"{split}.tsv", output)
        for file in (target.file, _packed(target.file)):  # beside a plain file nobody would read the packed one
            if file.exists() and read_qrels(file).by_people:
                raise InvalidInput(f"{file}: has judgements by people; choose another output or --split")
        return target

    @property
    def corpus(self) -> Path | None:
        """The folder's own documents, if it has any."""
        if self.folder is None:
            return None
        plain = self.folder / "corpus.jsonl"
        return next((file for file in (plain, _packed(plain)) if file.is_file()), None)

    def write(self, qrels: Qrels, texts: Mapping[str, str], corpus: Path | None = None) -> None:
        """Write the judgements, and into a folder the texts of their queries, behind those that it has.

        A folder without documents gets those of `corpus`. Texts that contradict its own are refused before that.
        """
        queries = None if self.folder is None else self.folder / "queries.jsonl"
        new = [] if queries is None else _new_queries(queries, texts)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.folder is not None and corpus is not None and self.corpus is None:
            _write_rows(self.folder / "corpus.jsonl", map(_document_row, read_corpus(corpus)))
        if queries is not None and new:
            before = queries.read_text(encoding="utf-8").rstrip("\n") + "\n" if queries.exists() else ""
            _write_rows(queries, new, before)
        with opened(self.file) as stream:
            write_qrels(stream, qrels, "jsonl" if self.file.suffix == ".jsonl" else "beir")


def _new_queries(file: Path, texts: Mapping[str, str]) -> list[dict[str, str]]:
    """What a folder's file of queries lacks; raises InvalidInput where it has another text, or cannot be added to."""
    packed = _packed(file)
    there = packed if packed.exists() and not file.exists() else file
    before = read_queries(there) if there.exists() else {}
    for query, text in texts.items():
        if before.get(query, text).split() != text.split():  # a log's texts have lost white space
            raise InvalidInput(f"{there}: query {query!r} is {before[query]!r} there and {text!r} here")
    new = [{"_id": query, "text": text} for query, text in texts.items() if query not in before]
    if new and there == packed:
        raise InvalidInput(f"{packed}: lacks {len(new):,} of the queries; unpack it, so that they can be added")
    return new


def _packed(file: Path) -> Path:
    return file.with_name(f"{file.name}.gz")


def _document_row(one: CorpusDocument) -> dict[str, Any]:
    return {**one.meta, "_id": one.id, **({"title": one.title} if one.title else {}), "text": one.text}


def _write_rows(file: Path, rows: Iterable[Mapping[str, Any]], before: str = "") -> None:
    with opened(file) as stream:
        stream.write(before)
        stream.writelines(json.dumps(row) + "\n" for row in rows)


# ---- Clicks.
@commands.command()
def clicks(
    file: Annotated[Path, typer.Argument(help="Impressions: .csv, .tsv, .jsonl (each also .gz) or .parquet.")],
    output: Labels,
    corpus: Annotated[
        Path | None, typer.Option(help="Documents for the folder (BEIR folder, JSON lines, .tsv); others are left out.")
    ] = None,
    split: Annotated[str, typer.Option(help=SPLIT_HELP)] = "train",
    threshold: Annotated[
        list[float] | None,
        typer.Option(min=0, max=1, help="Attractiveness from which on the grade is 1, then 2, ...; 0.1, 0.25 and 0.5."),
    ] = None,
    min_seen: Annotated[
        float, typer.Option(min=0, help="Pairs seen less (impressions times examination) stay unjudged.")
    ] = LEAST_SEEN,
    sure: Annotated[
        float,
        typer.Option(min=0.5, max=0.999, help="How certain it must be that a pair is relevant, or is not."),
    ] = SURE,
    prior: Annotated[
        float, typer.Option(help="Impressions by which each pair is drawn to the mean, so that few say little.")
    ] = PRIOR,
    eta: Annotated[
        float, typer.Option(min=0, help="Examination is 1/position^ETA where the log itself cannot tell.")
    ] = ETA,
    first_position: Annotated[int, typer.Option(min=0, max=1, help="What the log calls the top of a list.")] = 1,
    as_json: arguments.JsonObject = False,
) -> None:
    """Turn a log of impressions and clicks into graded judgements.

    Columns: query (text) or query_id or both, doc_id, position, clicked (0 or 1), and perhaps impressions, where
    clicked is a count. Impressions without a click belong to it. A position-based model takes out what a document's
    place alone explains: its examination by position is estimated from documents that were shown at several
    positions for the same query, and taken as 1/position^ETA, with a warning, where there are too few.

    [bold]Examples[/bold]

    secondpass label clicks clicks.csv --corpus docs.jsonl -o clicked

    secondpass label clicks clicks.csv -o clicked --threshold 0.05 --threshold 0.2 --min-seen 20
    """
    if corpus is not None and output.suffix in (".jsonl", ".tsv") and not output.is_dir():
        raise InvalidInput("--corpus goes with a folder as --output")
    target = Target.of(output, split)
    log = ClickLog.of_rows(_rows(file), first_position)
    model = fit_positions(log, eta=eta, prior=prior)
    labels = click_labels(log, model, thresholds=threshold or THRESHOLDS, least_seen=min_seen, sure=sure)
    qrels, absent = _in_corpus(labels.qrels, target.corpus, corpus)
    if model.warning:
        note(f"warning: {model.warning}")
    target.write(qrels, {query: text for query, text in labels.texts.items() if query in qrels}, corpus)
    rows = list(zip(*(getattr(model, name) for name in POSITION), strict=True))
    if as_json:
        print_json({
            "file": target.file, "rows": log.rows, "pairs": len(log.pairs), "dropped": log.dropped,
            "positions": [dict(zip(POSITION, map(_plain, row), strict=True)) for row in rows],
            "thresholds": labels.thresholds, "grades": labels.grades, "unjudged": labels.unjudged,
            "not_in_corpus": absent, "queries": len(qrels), "origin": qrels.origin, "unread": log.unread,
        })  # fmt: skip
        return
    print_table(
        ("position", "impressions", "clicks", "clicks/impressions", "examination", "from"),
        [(str(at), f"{shown:,}", f"{clicked:,}", number(clicked / shown), number(seen), "the log" if told else "curve")
         for at, shown, clicked, seen, told in rows],
    )  # fmt: skip
    console = PipeConsole(soft_wrap=True)
    for line in _click_lines(log, model, labels, absent):
        console.print(line)
    if target.folder is not None and not labels.texts:
        console.print(f"The log has no texts of queries: {target.folder}/queries.jsonl is still to be had.")
    console.print(f"{qrels.origin_note}: {target.file}")


# What is told of each position.
POSITION = ("positions", "impressions", "clicks", "examination", "estimated")


def _plain(value: Any) -> Any:
    """Numpy's number or Python's as Python's."""
    return value.item() if hasattr(value, "item") else value


def _rows(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Rows of a table and what messages call each."""
    from secondpass.training.data import sources

    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    items: Iterable[Any]
    if suffix in (".csv", ".tsv"):
        items = sources.read_delimited_rows(file, "," if suffix == ".csv" else "\t", suffix == ".csv", ids=True)
    elif suffix == ".parquet":
        items = sources.read_parquet_rows(file, lambda names: names)
    elif suffix in sources.JSON_SUFFIXES:
        items = sources.read_json_rows(file)
    else:
        raise InvalidInput(f"{file}: a log of clicks is a file .csv, .tsv, .jsonl or .parquet")
    for item in items:
        if isinstance(item, InvalidInput):
            raise item
        yield item.source, item.values


def _in_corpus(qrels: Qrels, own: Path | None, corpus: Path | None) -> tuple[Qrels, int]:
    """The judgements of documents that there are, in the folder's own file or the one for it, and how many others."""
    if own is not None and corpus is not None and survey(own).digest != survey(corpus).digest:
        raise InvalidInput(f"{own}: has other documents than {corpus}; leave --corpus out, or delete it")
    documents = own or corpus
    if documents is None:
        return qrels, 0
    known = {one.id for one in read_corpus(documents)}
    kept = {query: {name: grade for name, grade in grades.items() if name in known} for query, grades in qrels.items()}
    found = Qrels(kept, origin=qrels.origin)
    if not found.with_relevant:
        raise InvalidInput(f"{documents}: has none of the documents that the clicks call relevant")
    return found, sum(map(len, qrels.values())) - sum(map(len, found.values()))


def _click_lines(log: ClickLog, model: PositionModel, labels: ClickLabels, absent: int) -> Iterator[str]:
    shown, clicked = int(log.impressions.sum()), int(log.clicks.sum())
    yield f"Rows: {log.rows:,}; impressions {shown:,}, clicks {clicked:,}, pairs {len(log.pairs):,}."
    for reason, count in log.dropped.items():
        yield f"{count:,} rows {reason}."
    if log.unread:
        yield f"Columns not read: {', '.join(log.unread)}."
    steps = (0.0, *labels.thresholds)
    grades = ", ".join(f"{grade} (from {steps[grade]:g}): {count:,}" for grade, count in enumerate(labels.grades))
    yield f"Attractiveness is P(click) at the first position, drawn to {model.mean:.3g} by {model.prior:g} impressions."
    yield f"Grades by attractiveness: {grades}."
    if labels.unjudged:
        yield f"Left unjudged: {labels.unjudged:,} pairs that were seen too seldom to be sure (--min-seen, --sure)."
    if absent:
        yield f"Left out: {absent:,} judgements of documents that are not in the corpus."
    if labels.without_relevant:
        yield f"{labels.without_relevant:,} of {len(labels.qrels):,} queries have no relevant document."


# ---- A language model.
@commands.command()
def judge(
    output: Labels,
    base_url: Annotated[str, typer.Option(help="Of an endpoint that speaks OpenAI's chat completions.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Name of the language model there.")],
    run: Annotated[Path | None, typer.Option("--run", "-r", help="Run file whose documents are judged.")] = None,
    qrels: Annotated[
        Path | None, typer.Option(help="Judgements by people whose pairs are judged too, to see how far both agree.")
    ] = None,
    dataset: Annotated[Path | None, typer.Option("--dataset", "-d", help="BEIR folder with the texts.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Queries (JSON lines or .tsv), without --dataset.")] = None,
    corpus: Annotated[Path | None, typer.Option(help="Documents (JSON lines, .tsv), without --dataset.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="So many documents of each query of the run.")] = 10,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first queries.")] = None,
    split: Annotated[str, typer.Option(help=SPLIT_HELP)] = "test",
    key_env: Annotated[
        str, typer.Option(help="Environment variable with the key; endpoints of one's own may want none.")
    ] = "OPENAI_API_KEY",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 4,
    retries: Annotated[int, typer.Option(min=0, help="Of a request that was refused for now (429, 5xx).")] = 5,
    timeout: Annotated[float, typer.Option(help="Of a request, in seconds.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(min=0, help="Of a reply; 0: not sent, for models that refuse it.")] = 1024,
    temperature: Annotated[bool, typer.Option(help="Send temperature 0; some models refuse it.")] = True,
    max_characters: Annotated[int, typer.Option(min=1, help="Longer documents are cut.")] = 20_000,
    as_json: arguments.JsonObject = False,
) -> None:
    """Have a language model grade documents from 0 to 3, after UMBRELA's scheme.

    The texts of queries and documents are sent to the endpoint. What comes back is marked as judgements by that model,
    not by people, wherever it is used. A broken run goes on where it stopped; a reply without a grade leaves its pair
    unjudged. With --qrels the agreement with people's judgements is printed too.

    [bold]Examples[/bold]

    secondpass label judge --dataset beir/scifact --run bm25.trec -o judged.jsonl --base-url http://localhost:8000/v1
    --model qwen3

    secondpass label judge -d beir/scifact --qrels beir/scifact/qrels/test.tsv -o judged.jsonl --base-url
    https://api.openai.com/v1 --model gpt-5-mini --max-tokens 0 --no-temperature
    """
    key = os.environ.get(key_env, "").strip() or None  # a file that it came out of ends in a line end
    who = ChatJudge(model=model, base_url=base_url, api_key=key, timeout=timeout, max_tokens=max_tokens or None,
                    retries=retries, max_characters=max_characters, temperature=0 if temperature else None)  # fmt: skip
    people = None if qrels is None else read_qrels(qrels)
    texts, documents = _texts(dataset, queries, corpus)
    pairs, left = _pairs(_wanted(run, people, depth, limit), read_queries(texts), documents)
    target = Target.of(output, split)
    path = target.file.with_name(f"{target.file.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)

    for count, why in left:
        note(f"{count:,} {why}")
    with progress_bar("judged", len(pairs), "pairs") as bar:
        try:
            result = asyncio.run(judge_pairs(who, pairs, path, concurrency=concurrency, told=bar.update))
        except KeyboardInterrupt:
            note(f"interrupted; the same command goes on from {path}")
            raise typer.Exit(INTERRUPTED) from None
    if not result.qrels:
        why = "; the same with another --max-tokens asks again"
        why = next((f"; {len(result.failed):,} requests failed: {one[:200]}" for one in result.failed.values()), why)
        raise InvalidInput(f"no reply of {len(pairs):,} names a grade; the replies are in {path}{why}")
    target.write(result.qrels, {pair.query_id: pair.query for pair in pairs if pair.query_id in result.qrels})
    if not result.failed:
        path.unlink()
    agreed = _agreed(people, result.qrels)
    if as_json:
        print_json(_judged(result, target.file, len(pairs), agreed))
        return
    console = PipeConsole(soft_wrap=True)
    for line in _judge_lines(result, len(pairs), path):
        console.print(line)
    if agreed is not None:
        _print_agreement(console, agreed)
    console.print(f"{result.qrels.origin_note}: {target.file}")


def _agreed(people: Qrels | None, judged: Qrels) -> Agreement | None:
    """How far both agree; where that cannot be said a note says why, and the judgements stay what they are."""
    try:
        return None if people is None else agreement(people, judged)
    except InvalidInput as error:
        note(f"no agreement: {error}")
        return None


def _judged(result: JudgeResult, file: Path, pairs: int, agreed: Agreement | None) -> dict[str, object]:
    """What was judged, for programs."""
    failed = [{"query": query, "document": name, "reason": why} for (query, name), why in result.failed.items()]
    return {
        "file": file, "pairs": pairs, "asked": result.asked, "without_grade": len(result.without_grade),
        "failed": failed, "cut": result.cut, "origin": result.qrels.origin, "agreement": agreed,
    }  # fmt: skip


def _texts(dataset: Path | None, queries: Path | None, corpus: Path | None) -> tuple[Path, Path]:
    if dataset is not None and not (queries or corpus):
        return named_file(dataset, "queries.jsonl"), dataset
    if dataset is not None or queries is None or corpus is None:
        raise InvalidInput("give either --dataset, or --queries and --corpus")
    return queries, corpus


def _wanted(run: Path | None, people: Qrels | None, depth: int, limit: int | None) -> dict[str, list[str]]:
    """Documents by query: the best of the run, then what people judged."""
    if run is None and people is None:
        raise InvalidInput("give --run, --qrels or both: which documents are to be judged?")
    ranked = {} if run is None else {query: list(found)[:depth] for query, found in read_run(run).items()}
    queries = list(dict.fromkeys((*ranked, *(people or {}))))[:limit]
    return {query: list(dict.fromkeys((*ranked.get(query, ()), *(people or {}).get(query, ())))) for query in queries}


def _pairs(
    wanted: Mapping[str, list[str]], texts: Mapping[str, str], corpus: Path
) -> tuple[list[UnjudgedPair], list[tuple[int, str]]]:
    """The pairs that have texts, and how many others, with the reason."""
    names = {name for documents in wanted.values() for name in documents}
    contents = {one.id: one.content for one in read_corpus(corpus) if one.id in names}
    textless = [query for query in wanted if query not in texts]
    named = [(query, name) for query, documents in wanted.items() if query in texts for name in documents]
    absent = sum(name not in contents for _, name in named)
    full = [(query, name) for query, name in named if not is_blank(contents.get(name, ""))]
    left = [
        (len(textless), "queries have no text: their documents stay unjudged"),
        (absent, "pairs stay unjudged: their documents are not in the corpus"),
        (len(named) - absent - len(full), "pairs stay unjudged: their documents are blank"),
    ]
    if not full:
        raise InvalidInput(f"{corpus}: no pair to judge has its texts there")
    pairs = [UnjudgedPair(query, name, texts[query], contents[name]) for query, name in full]
    return pairs, [(count, why) for count, why in left if count]


def _judge_lines(result: JudgeResult, pairs: int, path: Path) -> Iterator[str]:
    grades = [grade for documents in result.qrels.values() for grade in documents.values()]
    counts = ", ".join(f"{grade}: {grades.count(grade):,}" for grade in range(4))
    yield f"Judged: {len(grades):,} of {pairs:,} pairs ({result.asked:,} asked now). Grades {counts}."
    if result.without_grade:
        yield f"Left unjudged: {len(result.without_grade):,} pairs whose reply names no grade from 0 to 3."
    if result.failed:
        (query, name), why = next(iter(result.failed.items()))
        first = f"query {query!r}, document {name!r}: {why[:200]}"
        yield f"Left unjudged: {len(result.failed):,} pairs whose request failed ({first}); again: the same command."
        yield f"The replies are kept in {path}."
    if result.cut:
        yield f"Cut: {result.cut:,} documents that are longer than --max-characters."


# ---- Agreement.
@commands.command("agreement")
def compare(
    qrels: Annotated[list[Path], typer.Option(help="Twice: judgements by people, and others of the same documents.")],
    relevant_from: Annotated[
        list[int] | None, typer.Option(help="The lowest grade that is relevant; once, or for each; 1.")
    ] = None,
    level: Annotated[float, typer.Option(min=0.5, max=0.999, help="Of the confidence intervals.")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="Of resampling.")] = 0,
    json_file: arguments.JsonFile = None,
) -> None:
    """Say how far two sets of judgements agree: Cohen's kappa, of relevant or not and weighted, with a table.

    Intervals are bootstrapped over queries.

    [bold]Example[/bold]

    secondpass label agreement --qrels people.tsv --qrels judged.jsonl --relevant-from 1 --relevant-from 2
    """
    least = relevant_from or [1]
    if len(qrels) != 2 or len(least) > 2:
        raise InvalidInput("--qrels is given twice, and --relevant-from at most so often")
    first, second = map(read_qrels, qrels)
    found = agreement(first, second, relevant_from=(least[0], least[-1]), level=level, seed=seed)
    if arguments.printed(json_file):
        print_json(found)
        return
    _print_agreement(PipeConsole(soft_wrap=True), found)
    if json_file is not None:
        with opened(json_file) as stream:
            stream.write(json.dumps(asdict(found)) + "\n")


def _print_agreement(console: PipeConsole, found: Agreement) -> None:
    for which, origin in (("first", found.first_origin), ("second", found.second_origin)):
        if origin:
            console.print(f"The {which}: judgements {origin}.")
    both = f"{found.pairs:,} pairs of {found.queries:,} queries"
    console.print(f"Both judge {both}; the first alone {found.first_only:,}, the second alone {found.second_only:,}.")
    print_table(
        ("first \\ second", *(f"grade {grade}" for grade in found.second_grades)),
        [(f"grade {grade}", *(f"{count:,}" for count in row))
         for grade, row in zip(found.first_grades, found.table, strict=True)],
    )  # fmt: skip
    first, second = found.relevant_from
    relevant = f"from grade {first}" + (f" and {second}" if second != first else "")
    console.print(f"Relevant {relevant}: both say the same of {percent(found.agreed)} ({span(found.agreed_interval)}).")
    console.print(f"Cohen's kappa {number(found.kappa)} ({span(found.kappa_interval)}), with quadratic weights of the")
    console.print(f"grades {number(found.weighted)} ({span(found.weighted_interval)}); intervals by queries.")
    if found.first_grades[-1] != found.second_grades[-1]:
        console.print("The highest grades differ: weights compare grades as numbers, so mind the scales.")
