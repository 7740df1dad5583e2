"""All contenders on one model: which batch suits each, their times in turns, how exact they are, what they cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.inference.callers import callers
from benchmarks.inference.judged import judge
from benchmarks.inference.loads import Asked, Loads, Source
from benchmarks.inference.models import write_model
from benchmarks.inference.turns import Lineup, Measured, agreement, best_batch, quantile, ratio, scratch, take_turns
from benchmarks.inference.worker import Contender, Place, Unavailable

DEFAULT = Contender("sentence-transformers, default", "sentence-transformers")
# Their other settings; each gets the batch size that is fastest here.
TUNED = (
    Contender("sentence-transformers fp32", "sentence-transformers"),
    Contender("sentence-transformers bf16", "sentence-transformers", "bf16"),
    Contender("sentence-transformers ONNX fp32", "onnx"),
    Contender("sentence-transformers ONNX int8", "onnx", "int8"),
    Contender("sentence-transformers OpenVINO fp32", "openvino"),
    Contender("sentence-transformers OpenVINO bf16", "openvino", "bf16"),
    Contender("sentence-transformers OpenVINO int8", "openvino", "int8"),
)
AS_THEY_ARE = (
    Contender("FlashRank's way, ONNX int8", "flashrank", "int8"),
    Contender("fastembed's way, ONNX fp32", "fastembed", "fp32", 64),
)
OURS = tuple(Contender(f"secondpass {p}", "secondpass", p) for p in ("fp32", "bf16", "int8", "auto"))
FALLBACK = tuple(Contender(f"secondpass {p}, no compiled kernel", "packed torch", p) for p in ("fp32", "bf16"))
HAYSTACK_DEFAULT = Contender(
    "Haystack SentenceTransformersSimilarityRanker", "haystack sentence-transformers", batch=16
)
HAYSTACK = tuple(
    Contender(f"Haystack SecondPassRanker {p}", "haystack secondpass", p, 16) for p in ("fp32", "bf16", "int8", "auto")
)
SIZES = {"cpu": (4, 8, 16, 32), "cuda": (32, 64, 128, 256)}
TUNING_DOCUMENTS = 64
FRESH_QUERIES = 3
# Those whose start and memory are measured in a process of their own.
STARTED = (
    DEFAULT.name,
    *(one.name for one in TUNED if one.precision != "fp32"),
    *(one.name for one in OURS),
    HAYSTACK_DEFAULT.name,
    HAYSTACK[3].name,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What `compare` was asked for; `rounds` are queries by kind of load, `documents` of a query alike."""

    rounds: dict[str, int]
    documents: dict[str, int]
    device: str
    threads: int
    backends_python: str | None
    fallback: bool
    haystack: bool
    fresh: int
    judged: int
    callers: int
    data: Path
    log: Path


@dataclass(frozen=True, slots=True)
class Entered:
    """Who takes part, seconds at each batch size of those with a choice, and why others do not take part."""

    contenders: tuple[Contender, ...]
    tuning: dict[str, dict[int, float]]
    absent: dict[str, str]


Say = Callable[[str], object]


def enter(lineup: Lineup, settings: Settings, loads: Loads, say: Say) -> Entered:
    """Load everybody, and find the batch size of those who have a choice."""
    tuning: dict[str, dict[int, float]] = {}
    absent: dict[str, str] = {}
    entered: list[Contender] = [DEFAULT]
    lineup.load(DEFAULT)
    for like in TUNED if settings.device == "cpu" else TUNED[:2]:
        asked = loads.make("passage", 2, TUNING_DOCUMENTS)
        try:
            taken = best_batch(lineup, like, SIZES[settings.device.partition(":")[0]], asked)
        except Unavailable as error:
            absent[like.name] = str(error)
            continue
        tuning[like.name] = taken
        batch = min(taken, key=lambda size: taken[size])
        say(f"{like.name}: batch {batch} of " + ", ".join(f"{n}: {s:.2f} s" for n, s in taken.items()))
        if (like.way, like.precision, batch) != (DEFAULT.way, DEFAULT.precision, DEFAULT.batch):
            entered.append(Contender(f"{like.name}, batch {batch}", like.way, like.precision, batch))
    others = [*(AS_THEY_ARE if settings.device == "cpu" else ()), *OURS]
    others += FALLBACK if settings.fallback and settings.device == "cpu" else ()
    others += (HAYSTACK_DEFAULT, *HAYSTACK) if settings.haystack else ()
    for contender in [*entered[1:], *others]:
        try:
            lineup.load(contender)
        except Unavailable as error:
            absent[contender.name] = str(error)
            continue
        if contender not in entered:
            entered.append(contender)
    return Entered(tuple(entered), tuning, absent)


def their_best(ours: Measured, measured: Sequence[Measured]) -> tuple[str, float] | None:
    """The fastest of the others at a precision (of all for int8 and auto), and how many times as fast this one is."""
    theirs = [
        found
        for found in measured
        if not found.contender.name.startswith(("secondpass", "Haystack"))
        and ours.contender.precision in (found.contender.precision, "int8", "auto")
    ]
    ratios = {found.contender.name: ratio(found, ours) for found in theirs}
    return min(ratios.items(), key=lambda item: item[1]) if ratios else None


def rows(measured: Sequence[Measured], documents: int) -> list[dict[str, Any]]:
    """Figures of each contender on one load; the first one is the reference."""
    made = []
    haystack = next((found for found in measured if found.contender == HAYSTACK_DEFAULT), None)
    for found in measured:
        own = found.contender.name.startswith("secondpass")
        best = their_best(found, measured) if own else None
        behind = found.contender.way.startswith("haystack") and haystack is not None
        made.append(
            {
                **asdict(found.contender),
                "pairs_per_second": documents / statistics.median(found.seconds),
                "ratio": ratio(measured[0], found),
                "ratio_haystack": ratio(haystack, found) if behind and haystack is not None else None,
                "their_best": None if best is None else {"name": best[0], "ratio": best[1]},
                "p50_ms": 1000 * statistics.median(found.seconds),
                "p95_ms": 1000 * quantile(found.seconds, 0.95),
                "single_ms": 1000 * statistics.median(found.single) if found.single else None,
                **agreement(found, measured[0]),
                "seconds": found.seconds,
            }
        )
    return made


def start_fresh(lineup: Lineup, entered: Sequence[Contender], asked: Sequence[Asked], times: int, say: Say) -> Any:
    """Medians of cold start and peak memory, by name."""
    found: dict[str, dict[str, float]] = {}
    for contender in entered:
        if not contender.name.startswith(STARTED):
            continue
        try:
            made = [lineup.fresh(contender, asked) for _ in range(times)]
        except Unavailable as error:
            say(f"{contender.name}: {error}")
            continue
        found[contender.name] = {key: statistics.median(one[key] for one in made) for key in made[0]}
        say(f"{contender.name}: started in {found[contender.name]['cold_s']:.1f} s")
    return found


def measure(name: str, work: Path, text: Source, settings: Settings, say: Say) -> dict[str, Any]:
    """Everything about one model."""
    folder = work / name
    write_model(name, folder)
    loads = Loads(text, folder)
    calibration = work / f"{name}-calibration.json"
    pairs = [(one.query, document) for one in loads.make("passage", 16, 8) for document in one.documents]
    calibration.write_text(json.dumps(pairs), encoding="utf-8")
    place = Place(str(folder), settings.device, settings.threads, scratch(work), str(calibration))
    found: dict[str, Any] = {"loads": {}}
    with Lineup(place, settings.backends_python, settings.log) as lineup:
        entered = enter(lineup, settings, loads, say)
        found["tuning"], found["absent"] = entered.tuning, entered.absent
        for kind, rounds in settings.rounds.items():
            documents = settings.documents[kind]
            asked = loads.make(kind, rounds, documents)
            singles = loads.make(kind, 2, rounds) if kind == "passage" else ()
            measured = take_turns(lineup, entered.contenders, asked, singles, lambda line: say(f"{name}: {line}"))
            mean, spread = loads.tokens(asked)
            setting = {"queries": rounds, "documents": documents, "tokens": mean, "tokens_spread": spread}
            found["loads"][kind] = {**setting, "rows": rows(measured, documents)}
        if settings.judged and name == "pocket":
            found["judged"] = judge(lineup, judged_contenders(entered.contenders), settings.data, settings.judged)
    if settings.fresh:
        asked = loads.make("passage", FRESH_QUERIES, settings.documents["passage"])
        found["fresh"] = start_fresh(lineup, entered.contenders, asked, settings.fresh, say)
    if settings.callers:
        asked = loads.make("passage", settings.callers, max(1, settings.documents["passage"] // 2))
        precisions = ("fp32", "int8") if any(one.name == OURS[2].name for one in entered.contenders) else ("fp32",)
        found["callers"] = [callers(place, precision, asked, settings.callers, 3) for precision in precisions]
    return found


def judged_contenders(entered: Sequence[Contender]) -> list[Contender]:
    """Those whose numbers differ: float32 of one library speaks for all."""
    theirs = [one for one in entered if one.precision == "int8" and one.way in ("onnx", "openvino")]
    return [*(one for one in entered if one in OURS), *theirs]
