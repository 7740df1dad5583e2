"""Names of measures as ir_measures writes them, with what each of them needs: parameters and packages."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from secondpass.errors import InvalidInput
from secondpass.lazy import optional

if TYPE_CHECKING:
    from ir_measures import Measure

# A library of the eval extra, imported when it is first called for: it takes a second.
ir_measures = partial(optional, "ir_measures", "ir_measures", "eval")

# What parameters may be, ends included: what lies outside ends the process in trec_eval (nDCG@0), is another measure
# there (a tiny beta) or no measure at all.
HIGHEST = 1_000_000
LIMITS: Mapping[str, tuple[float, float]] = {
    **dict.fromkeys(("cutoff", "rel", "max_rel"), (1, HIGHEST)),
    **dict.fromkeys(("recall", "alpha", "p"), (0, 1)),
    **dict.fromkeys(("beta", "T"), (0.0001, HIGHEST)),
}
KINDS = {int: "a whole number", float: "a number", bool: "True or False", str: "a string", dict: "a mapping"}
INSTALLED_BY = {
    "cwl_eval": 'cwl-eval: pip install "secondpass[eval]"',
    "pyndeval": 'pyndeval: pip install "secondpass[eval]"',
    "gdeval": "perl on the path",
}


def parsed(names: Iterable[str]) -> dict[str, Measure]:
    """Measures by their own names, in order, each once.

    Raises:
        InvalidInput: there is none, or one is unknown, lacks a parameter or has a wrong one, or needs a package that
            is not installed; the message names it.
        MissingExtra: ir_measures is not installed.
    """
    library = ir_measures()
    made: dict[str, Measure] = {}
    for name in [names] if isinstance(names, str) else names:
        if not isinstance(name, str):
            raise InvalidInput(f"measure {name!r} is {type(name).__name__}, not str")
        measure = _measure(name, library.measures.registry)
        if fault := _fault(measure, library):
            raise InvalidInput(f"measure {name!r} {fault}")
        made[str(measure)] = measure
    if not made:
        raise InvalidInput("measures is empty")
    return made


def _measure(name: str, registry: Mapping[str, Measure]) -> Measure:
    """`NAME(parameter=value, ...)@cutoff` as ir_measures writes it, with any capitals: people write ndcg@10.

    Read here, since ir_measures 0.4 reads numbers by a part of `ast` that Python 3.14 no longer has.
    """
    by_lower = {known.lower(): known for known in registry}
    try:
        node: Any = ast.parse(name.strip(), mode="eval").body
        at = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            at, node = [ast.literal_eval(node.right)], node.left
        given = {}
        if isinstance(node, ast.Call) and not node.args:
            given = {str(part.arg): ast.literal_eval(part.value) for part in node.keywords}
            node = node.func
        known = registry[node.id if node.id in registry else by_lower[node.id.lower()]]
    except (SyntaxError, ValueError, TypeError, LookupError, AttributeError, MemoryError, RecursionError):
        form = "NAME, NAME@10 or NAME(rel=2)@10, with a name of ir_measures"
        raise InvalidInput(f"measure {name!r} is unknown; a measure is {form}") from None
    given |= dict.fromkeys([known.AT_PARAM] * len(at), *at)
    floats = {key for key, info in known.SUPPORTED_PARAMS.items() if info.dtype is float}
    whole = {key: float(value) for key, value in given.items() if key in floats and type(value) is int}
    made: Measure = known(**given | whole)
    return made


def _fault(measure: Measure, library: Any) -> str:
    """What is wrong with a measure's parameters, or what it lacks here; "" if it can be computed."""
    known = measure.SUPPORTED_PARAMS
    for name in measure.params:
        if name not in known:
            return f"has no parameter {name}; its parameters are {', '.join(known) or 'none'}"
    required = {name for name, info in known.items() if info.required}
    if measure.NAME in _over_subtopics() or measure.NAME == "ERR":
        required |= {"cutoff"} & known.keys()
    missing = [name for name in known if name in required and name not in measure.params]
    if missing:
        return _lacks(measure, missing)
    for name, value in measure.params.items():
        if why := _out_of_range(name, value, known[name]):
            return f"has {name}={value!r}: {why}"
    if known.keys() >= {"min_rel", "max_rel"} and measure["min_rel"] >= measure["max_rel"]:
        return f"has max_rel={measure['max_rel']}, which is not above min_rel={measure['min_rel']}"
    return "" if library.DefaultPipeline.supports(measure) else _unprovided(measure, library)


def _out_of_range(name: str, value: Any, info: Any) -> str:
    if isinstance(value, bool) is not (info.dtype is bool) or not info.validate(value):
        choices = info.choices if isinstance(info.choices, (list, tuple)) else ()
        return f"it is one of {', '.join(map(repr, choices))}" if choices else f"it is {KINDS[info.dtype]}"
    if name == "recall" and round(value, 2) != value:
        return "trec_eval knows hundredths only"
    if isinstance(value, dict):
        whole = all(type(part) is int and abs(part) <= HIGHEST for item in value.items() for part in item)
        return "" if whole else f"gains are whole numbers up to {HIGHEST:,}"
    low, high = LIMITS.get(name, (-math.inf, math.inf))
    return "" if isinstance(value, (str, bool)) or low <= value <= high else f"it is from {low:g} to {high:,}"


def _lacks(measure: Measure, names: Sequence[str]) -> str:
    inside = ", ".join(f"{name}={3 if name == 'max_rel' else 1}" for name in names if name != measure.AT_PARAM)
    at = {"cutoff": "@10", "recall": "@0.1"}[measure.AT_PARAM] if measure.AT_PARAM in names else ""
    example = f"{measure.NAME}({inside}){at}" if inside else f"{measure.NAME}{at}"
    return f"needs the parameter{'s' * (len(names) > 1)} {' and '.join(names)}, as in {example}"


def _unprovided(measure: Measure, library: Any) -> str:
    """Which package or parameter would make a provider of ir_measures compute it."""
    faults: list[tuple[int, str]] = []
    for provider in library.DefaultPipeline.providers:
        for known in provider.SUPPORTED_MEASURES:
            if known.NAME != measure.NAME:
                continue
            other = {name: spec for name, spec in known.params.items() if not spec.validate(measure[name])}
            if not other:
                needed = INSTALLED_BY.get(provider.NAME) or f"{provider.NAME}: {provider.install_instructions()}"
                faults.append((0 if provider.NAME in INSTALLED_BY else 3, f"needs {needed}"))
            elif required := [name for name, spec in other.items() if "REQUIRED" in repr(spec)]:
                faults.append((1, _lacks(measure, required)))
            else:
                said = ("no {}" if "NOT_PROVIDED" in repr(spec) else f"{{}}={spec} only" for spec in other.values())
                faults.append((2, "takes " + " and ".join(map(str.format, said, other))))
    return min(faults)[1] if faults else "has no provider in this version of ir_measures"


@cache
def _over_subtopics() -> frozenset[str]:
    """Names of the measures that judge a list by the subtopics that it covers: those of pyndeval."""
    return frozenset(measure.NAME for measure in ir_measures().providers.registry["pyndeval"].SUPPORTED_MEASURES)


def over_subtopics(measure: Measure) -> bool:
    """Whether a measure judges a list by the subtopics that it covers, so that grades alone do not order documents."""
    return measure.NAME in _over_subtopics()
