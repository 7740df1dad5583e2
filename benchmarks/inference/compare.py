"""All contenders on one model: which batch suits each, their times in turns, how exact they are, what they cost."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.inference.callers import callers
from benchmarks.inference.judged import judge
from benchmarks.inference.loads import Asked, Loads, Source
from benchmarks.inference.models import NOTES, RERANKERS, template_tokens, write_model
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
OURS = tuple(Contender(f"secondpass {p}", "secondpass", p) for p in ("fp32", "bf16", "int16", "int8", "auto"))
FALLBACK = tuple(Contender(f"secondpass {p}, no compiled kernel", "packed torch", p) for p in ("fp32", "bf16"))
HAYSTACK_DEFAULT = Contender(
    "Haystack SentenceTransformersSimilarityRanker", "haystack sentence-transformers", batch=16
)
HAYSTACK = tuple(
    Contender(f"Haystack SecondPassRanker {one.precision}", "haystack secondpass", one.precision, 16) for one in OURS
)
# Who takes part where a model is large: sentence-transformers' own settings, and what it compiles.
LEAN = ("sentence-transformers fp32", "sentence-transformers bf16", "sentence-transformers OpenVINO")
SIZES = {"cpu": (4, 8, 16, 32), "cuda": (32, 64, 128, 256)}
TUNING_DOCUMENTS = 64
FRESH_QUERIES = 3
# Those whose start and memory are measured in a process of their own.
STARTED = (
    DEFAULT.name,
    *(one.name for one in TUNED if one.precision != "fp32"),
    *(one.name for one in OURS),
    HAYSTACK_DEFAULT.name,
    HAYSTACK[-1].name,
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
    lean: bool = False
    without: tuple[str, ...] = ()

    def takes(self, contender: Contender) -> bool:
        """Whether it computes in none of the precisions that are left out."""
        return contender.precision not in self.without

    def for_model(self, name: str) -> Settings:
        """The same with fewer contenders and loads for the shapes of the open rerankers, which take long."""
        if name not in RERANKERS:
            return self
        passages = {"passage": self.rounds.get("passage", 0)}
        return replace(self, rounds=passages, fallback=False, haystack=False, callers=0, lean=True)


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
    for like in tuned(settings):
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
    others = [*(AS_THEY_ARE if settings.device == "cpu" and not settings.lean else ()), *OURS]
    others += FALLBACK if settings.fallback and settings.device == "cpu" else ()
    others += (HAYSTACK_DEFAULT, *HAYSTACK) if settings.haystack else ()
    for contender in filter(settings.takes, [*entered[1:], *others]):
        try:
            lineup.load(contender)
        except Unavailable as error:
            absent[contender.name] = str(error)
            continue
        if contender not in entered:
            entered.append(contender)
    return Entered(tuple(entered), tuning, absent)


def tuned(settings: Settings) -> tuple[Contender, ...]:
    """Their settings that get the batch size which is fastest here."""
    entered = TUNED if settings.device == "cpu" else TUNED[:2]
    return tuple(one for one in entered if settings.takes(one) and (not settings.lean or one.name.startswith(LEAN)))


def their_best(ours: Measured, measured: Sequence[Measured]) -> tuple[str, float] | None:
    """The fastest of the others at a precision (else of all), and how many times as fast this one is."""
    theirs = [
        found
        for found in measured
        if not found.contender.name.startswith(("secondpass", "Haystack"))
        and ours.contender.precision in (found.contender.precision, "int16", "int8", "auto")
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
    settings = settings.for_model(name)
    write_model(name, folder)
    loads = Loads(text, folder)
    calibration = work / f"{name}-calibration.json"
    pairs = [(one.query, document) for one in loads.make("passage", 16, 8) for document in one.documents]
    calibration.write_text(json.dumps(pairs), encoding="utf-8")
    place = Place(str(folder), settings.device, settings.threads, scratch(work), str(calibration))
    found: dict[str, Any] = {"loads": {}, "note": NOTES.get(name), "template_tokens": template_tokens(folder)}
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
        # as it is, which others cannot load
        with Lineup(replace(place, folder="secondpass/pocket"), settings.backends_python, settings.log) as lineup:
            ours = [one for one in entered.contenders if one in OURS]
            found["judged"] = judge(lineup, ours, settings.data, settings.judged)
    if settings.fresh:
        asked = loads.make("passage", FRESH_QUERIES, settings.documents["passage"])
        found["fresh"] = start_fresh(lineup, entered.contenders, asked, settings.fresh, say)
    if settings.callers:
        asked = loads.make("passage", settings.callers, max(1, settings.documents["passage"] // 2))
        there = {one.precision for one in entered.contenders if one in OURS}
        precisions = [one for one in ("fp32", "int8") if one in there]
        found["callers"] = [callers(place, precision, asked, settings.callers, 3) for precision in precisions]
    return found


# ---- What the rerankers' shapes have to reach: times sentence-transformers' default, and memory not above it.
#
# In float32, and at the better of bfloat16 and int8. On a GPU no figures have been shown yet: not to be slower.
BARS = {"ettin": (3.0, 6.0), "modernbert": (1.8, 4.0), "qwen3": (2.0, 3.5)}
BARS_ON_GPU = (1.0, 1.0)
# Of float32 logits, as a share of their spread.
MOST_DIFFERENCE = 1e-3


def verdict(name: str, found: dict[str, Any], device: str) -> list[tuple[str, bool | None]]:
    """-> what is asked of a model, with the figure, and whether that is so; None where it was not measured."""
    if name not in BARS or "passage" not in found["loads"]:
        return []
    rows = {row["name"]: row for row in found["loads"]["passage"]["rows"]}
    bars = BARS[name] if device == "cpu" else BARS_ON_GPU
    exact, others = rows.get(OURS[0].name), [rows[one.name] for one in OURS[1:-1] if one.name in rows]
    made: list[tuple[str, bool | None]] = []
    for row, bar in ((exact, bars[0]), (max(others, key=lambda row: row["ratio"], default=None), bars[1])):
        if row is None:
            made.append((f"{name}: {bar}x the default: not measured", None))
            continue
        made.append((f"{name}: {row['name']} {row['ratio']:.2f}x the default (bar {bar}x)", row["ratio"] >= bar))
        made.append(_memory(name, row["name"], found.get("fresh", {})))
    if exact is not None:
        off = exact["difference_of_spread"]
        said = f"{name}: {exact['name']} logits differ by {off:.1e} of their spread (bar {MOST_DIFFERENCE:.0e})"
        made.append((said, off <= MOST_DIFFERENCE))
    return made


def _memory(model: str, name: str, fresh: dict[str, dict[str, float]]) -> tuple[str, bool | None]:
    ours, theirs = (fresh.get(one, {}) for one in (name, DEFAULT.name))
    kind = "device_peak_mb" if ours.get("device_peak_mb") else "peak_mb"
    if kind not in ours or kind not in theirs:
        return f"{model}: peak memory of {name}: not measured", None
    said = f"{model}: {name} peak {ours[kind]:,.0f} MB (the default's {theirs[kind]:,.0f} MB)"
    return said, ours[kind] <= theirs[kind]
