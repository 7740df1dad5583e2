"""`secondpass bench`: how fast this machine ranks, in a form that others can check: every text, setting and time.

Contenders take turns, a query at a time, each time another one first, so that whatever else the machine does meets all
of them alike. Texts are cut from the packaged demo by a seed and told by a digest.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import typer

from secondpass import machine
from secondpass.activations import IDENTITY
from secondpass.cli import arguments
from secondpass.cli.arguments import DEMO
from secondpass.cli.competitors import (
    COMPETITORS,
    BenchContender,
    Weights,
    fastembed,
    flashrank,
    quiet,
    scores_of,
    sentence_transformers,
    since,
)
from secondpass.cli.output import INTERRUPTED, PipeConsole, note, print_table, progress_bar, without_folders
from secondpass.corpora import packaged, read_corpus, read_queries
from secondpass.errors import InvalidInput, ModelLoadError, SecondPassError
from secondpass.evaluation.reporting.files import dumped, opened
from secondpass.models.folders import folder_of
from secondpass.models.identity import weights_digest
from secondpass.text import choice

if TYPE_CHECKING:
    from secondpass.forwards.kernel.native import Precision

# It grows when a key is renamed or lost; benchmarks/results/schema.json describes it.
FORMAT = 1
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int16", "int8")
# Words of a passage: at least, and how many more at most. With a query that is about 120 tokens in the mean.
SHORTEST, SPREAD = 50, 70
# Threads of one library spin for a moment after a call; the next contender shall not pay for that.
PAUSE = 0.2
TOP = 10
LIBRARIES = ("secondpass", "numpy", "tokenizers", "torch", "transformers", *COMPETITORS, "onnxruntime")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query and the passages that are ranked for it."""

    query: str
    passages: tuple[str, ...]


# ---- Texts.
def texts_of(seed: int, rounds: int, passages: int) -> list[Asked]:
    """Queries of the packaged demo, each with passages cut from its articles; no passage comes twice.

    `Random.random` alone is used, whose sequence Python promises to keep for a seed.
    """
    words = [word for document in read_corpus(Path(DEMO)) for word in document.content.split()]
    queries = list(read_queries(packaged(Path(DEMO)) / "queries.jsonl").values())
    draw, seen = Random(seed), set[str]()  # noqa: S311 - no secret
    made = []
    for number in range(rounds):
        own: list[str] = []
        while len(own) < passages:
            start, size = int(draw.random() * len(words)), SHORTEST + int(draw.random() * SPREAD)
            passage = " ".join(words[(start + place) % len(words)] for place in range(size))
            if passage not in seen:
                seen.add(passage)
                own.append(passage)
        made.append(Asked(queries[number % len(queries)], tuple(own)))
    return made


def digest_of(asked: Sequence[Asked]) -> str:
    """SHA-256 of all texts, by which others know that they have the same."""
    text = json.dumps([[one.query, *one.passages] for one in asked], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def ours(weights: Weights, precision: Precision, batch: int) -> BenchContender:
    """Secondpass at one precision."""
    began = time.perf_counter()
    encoder = arguments.load(weights.name, None, "cpu", precision)
    records: list[Any] = []

    def score(query: str, passages: Sequence[str]) -> list[float]:
        records.clear()
        pairs = [(query, passage) for passage in passages]
        logits = encoder.predict(pairs, batch, False, activation_fct=IDENTITY, convert_to_numpy=True, records=records)
        return scores_of(logits.tolist())

    score("what is warm", ["warm water"])
    from secondpass.forwards.kernel import native

    found = native.find(precision)
    settings = {"dtype": records[0].dtype, "kernel": found if isinstance(found, str) else found.instructions}
    return BenchContender(f"secondpass {precision}", "secondpass", precision, batch, settings, score, since(began))


def entered(
    weights: Weights, precisions: Sequence[Precision], batch: int, competitors: bool
) -> tuple[list[BenchContender], dict[str, str]]:
    """All contenders that can be had here, and of the others why not."""
    ways: list[tuple[str, Callable[[], BenchContender]]] = [
        (f"secondpass {precision}", lambda precision=precision: ours(weights, precision, batch))  # type: ignore[misc]
        for precision in precisions
    ]
    ways += [
        ("sentence-transformers", lambda: sentence_transformers(weights, batch)),
        ("FlashRank", lambda: flashrank(weights)),
        ("fastembed", lambda: fastembed(weights, 64)),
    ]
    made, absent = [], {}
    for name, way in ways:
        if name in COMPETITORS and not competitors:
            absent[name] = "left out (--no-competitors)"
        elif name in COMPETITORS and find_spec(COMPETITORS[name]) is None:
            absent[name] = f"not installed: pip install {name}"
        else:
            try:
                with quiet():
                    one = way()
                # before the turns: a module may come from a distribution of another name
                one.version = version(one.library)
                made.append(one)
            except (SecondPassError, ValueError, TypeError, ImportError, OSError, RuntimeError, KeyError) as error:
                absent[name] = f"cannot be had here: {without_folders(f'{type(error).__name__}: {error}')}"
    return made, absent


# ---- Turns.
def take_turns(contenders: Sequence[BenchContender], asked: Sequence[Asked], step: Callable[[], object]) -> None:
    """Every contender ranks the passages of every query, then one of them alone; each time another one is first.

    Raises:
        SecondPassError: a contender gives NaN, or not a score for each passage.
    """
    for number, one in enumerate(asked):
        start = number % len(contenders)
        for contender in (*contenders[start:], *contenders[:start]):
            time.sleep(PAUSE)
            began = time.perf_counter()
            scores = contender.score(one.query, one.passages)
            contender.seconds.append(since(began))
            if len(scores) != len(one.passages) or any(map(math.isnan, scores)):
                raise SecondPassError(f"{contender.name} did not give a score that is a number for each passage")
            contender.scores.append(scores)
            began = time.perf_counter()
            contender.score(one.query, one.passages[:1])
            contender.single.append(since(began))
            step()


def figures_of(contender: BenchContender, exact: BenchContender, passages: int) -> dict[str, Any]:
    """What is told of a contender: every time, what follows from them, and how far it is from exact scores."""
    both = list(zip(contender.scores, exact.scores, strict=True))
    seconds, single = contender.seconds, contender.single
    return {
        "name": contender.name,
        "library": contender.library,
        "version": contender.version,
        "precision": contender.precision,
        "batch_size": contender.batch,
        "settings": contender.settings,
        "load_s": contender.load_s,
        "first_s": contender.first_s,
        "seconds": seconds,
        "single_seconds": single,
        "median_s": statistics.median(seconds),
        "spread": spread_of(seconds),
        "pairs_per_second": passages / statistics.median(seconds),
        "single_median_ms": 1000 * statistics.median(single),
        "times_first": statistics.median(b / a for a, b in zip(seconds, exact.seconds, strict=True)),
        "score_difference": max(abs(a - b) for ours, theirs in both for a, b in zip(ours, theirs, strict=True)),
        "top10_shared": statistics.fmean(len(_top(ours) & _top(theirs)) / len(_top(theirs)) for ours, theirs in both),
    }


def spread_of(seconds: Sequence[float]) -> float:
    """The distance of the quartiles as a share of the median; 0 for a single time."""
    if len(seconds) < 2:
        return 0.0
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / statistics.median(seconds)


def _top(scores: Sequence[float]) -> set[int]:
    return set(sorted(range(len(scores)), key=lambda place: -scores[place])[:TOP])


# ---- The command.
def bench(
    model: arguments.Model = arguments.POCKET,
    rounds: Annotated[int, typer.Option(min=1, help="Queries; each contender ranks each once.")] = 10,
    passages: Annotated[int, typer.Option(min=1, max=1000, help="Passages of a query.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the texts.")] = 0,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, bf16, int16 or int8; may be repeated. All by default.")
    ] = None,
    batch_size: arguments.BatchSize = 32,
    threads: Annotated[int | None, typer.Option(min=1, help="Of each contender; all usable cores by default.")] = None,
    competitors: Annotated[
        bool, typer.Option("--competitors/--no-competitors", help="Measure other libraries that are installed.")
    ] = True,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Measure the machine before and after: a few seconds.")
    ] = True,
    json: arguments.JsonFile = None,
) -> None:
    """Measure how fast this machine ranks, beside other libraries on the same weights where they are installed.

    The machine is looked at before and after: whether it gives its cores, how fast it multiplies, and how much others
    compute on it. The JSON has every single time, the seed and a digest of the texts, and all settings.

    [bold]Examples[/bold]

    secondpass bench

    secondpass bench --precision int8 --threads 4 --json result.json

    secondpass bench --model models/mine --rounds 20 --no-competitors --json | jq .contenders
    """
    cores = _limited(threads)
    arguments.check_targets(json)
    chosen = [choice(one, PRECISIONS, "--precision") for one in precision or PRECISIONS]
    asked = texts_of(seed, rounds, passages)
    try:
        found = _measured(model, asked, list(dict.fromkeys(chosen)), batch_size, cores, competitors, check)
    except KeyboardInterrupt:
        note("interrupted: a part of the turns would favour some contenders, so nothing is told or written")
        raise typer.Exit(INTERRUPTED) from None
    found["texts"] |= {"seed": seed, "queries": rounds, "passages": passages}
    for line in found["machine"]["warnings"]:
        note(line)
    if not arguments.printed(json):
        _show(found)
    if json is not None:
        with opened(sys.stdout if arguments.printed(json) else json) as stream:
            stream.write(dumped(found) + "\n")


def _limited(threads: int | None) -> int:
    """How many threads each contender has; fewer than there are cores are had by giving this process fewer."""
    from secondpass.forwards.kernel.native import asked_threads, cores, usable_cores

    usable = usable_cores()
    if threads is None:
        if (asked := asked_threads()) is None:
            return usable
        threads = min(asked, usable)
    if threads > usable:
        raise InvalidInput(f"--threads {threads}: this process may use {usable} cores")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if hasattr(os, "sched_setaffinity") and threads < usable:
        os.sched_setaffinity(0, [processors[0] for processors in cores()[:threads]])
    return threads


def _measured(
    model: str,
    asked: Sequence[Asked],
    precisions: Sequence[Precision],
    batch: int,
    threads: int,
    competitors: bool,
    check: bool,
) -> dict[str, Any]:
    """Everything but how the texts were asked for."""
    before = machine.cores_given(threads) if check else None
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        encoder = arguments.load(model, None, "cpu", "fp32")
        if encoder.num_labels != 1:
            raise InvalidInput(f"--model {model}: has {encoder.num_labels} labels, and other libraries rank by one")
        weights = Weights(model, scratch, threads, encoder)
        contenders, absent = entered(weights, precisions, batch, competitors)
        if not contenders:
            raise ModelLoadError(f"no contender can be had here: {'; '.join(absent.values())}")
        for contender in contenders:
            began = time.perf_counter()
            contender.score(asked[0].query, asked[0].passages)
            contender.first_s = since(began)
        gc.collect()
        began_at = machine.Clock.now()
        with progress_bar("Measuring", len(asked) * len(contenders), "calls") as bar:
            take_turns(contenders, asked, bar.update)
        others = machine.Clock.now().others(began_at)
        pairs = [(one.query, passage) for one in asked for passage in one.passages]
        lengths = [len(found.ids) for found in encoder.tokens(*map(list, zip(*pairs, strict=True)))]
    after = machine.cores_given(threads) if check else None
    said = machine.warnings(before, after, threads, others) if before and after else []
    said += [] if check else ["the machine was not looked at (--no-check)"]
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": {
            **_machine(threads),
            "before": before,
            "after": after,
            "others_cores": others,
            "quiet": check and not said,
            "warnings": said,
        },
        "versions": _versions(),
        "model": _identity(model),
        "texts": {"source": DEMO, "sha256": digest_of(asked), "tokens_mean": round(statistics.fmean(lengths), 1)},
        "contenders": [figures_of(one, contenders[0], len(asked[0].passages)) for one in contenders],
        "absent": absent,
    }


def _machine(threads: int) -> dict[str, Any]:
    """What this is, without anything private: no names of hosts, users or folders."""
    system = {"system": f"{platform.system()} {platform.machine()}", "python": platform.python_version()}
    return {"processor": machine.processor(), **system, "threads": threads}


def _identity(model: str) -> dict[str, Any]:
    """The model's name, of a folder the last part, and the digest of its weights where they are a folder's."""
    folder = folder_of(model, local_files_only=True)
    name = folder.resolve().name if Path(model).is_dir() else model
    return {"name": name, "weights_sha256": weights_digest(folder)}


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _show(found: dict[str, Any]) -> None:
    own, texts, console = found["machine"], found["texts"], PipeConsole()
    cpu = own["processor"]
    console.print(f"{cpu['name']}, {own['threads']} of {cpu['count']} cores ({', '.join(cpu['flags'])})")
    console.print(
        f"{found['model']['name']}: {texts['queries']} queries with {texts['passages']} passages each, "
        f"{texts['tokens_mean']:.0f} tokens a pair, seed {texts['seed']}"
    )
    if (before := own["before"]) is not None:
        console.print(
            f"float32 multiply-adds: {before['gflops_alone']:.0f} Gflop/s alone, {before['gflops_together']:.0f} "
            f"together; load {before['load']} before and {own['after']['load']} after"
        )
    rows = [
        (
            one["name"],
            f"{one['pairs_per_second']:,.0f}",
            f"{one['times_first']:.2f}x",
            f"{1000 * one['median_s']:,.0f}",
            f"{one['spread']:.0%}",
            f"{one['single_median_ms']:.1f}",
            f"{one['score_difference']:.0e}",
            f"{one['top10_shared']:.2f}",
        )
        for one in found["contenders"]
    ]
    print_table(("contender", "pairs/s", "times", "median ms", "spread", "one ms", "differs", "top 10"), rows)
    for name, why in found["absent"].items():
        console.print(f"{name}: {why}")
