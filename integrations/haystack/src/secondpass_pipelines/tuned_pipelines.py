"""Pipelines around tuning: cut down to what is tuned, and written anew with what was tuned in place of the ranker."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Set
from hashlib import sha256
from inspect import signature
from pathlib import Path
from typing import Any

import yaml
from haystack.core.errors import DeserializationError
from haystack.core.serialization import import_class_by_name
from haystack_integrations.components.rankers.secondpass.ranker import SecondPassRanker
from haystack_integrations.components.rankers.secondpass.tuned_ranker import FILE, ReadingParameters, read_tuned

from secondpass.cli.output import note
from secondpass.errors import InvalidInput
from secondpass_pipelines.pipeline_files import (
    JOINER,
    RANKER,
    TUNED_RANKER,
    above,
    only,
    pipeline_file,
    read_pipeline,
    tuned_files,
    type_of,
    without_evaluation,
)

# Of the ranker's parameters those that say what of its order is kept, and those that say how the model reads.
KEPT = ("top_k", "raise_on_failure", "min_probability", "when_nothing_relevant")
READING = tuple(ReadingParameters.__annotations__)
LACKING = (".scale_score", ".score_threshold")
# They search twice; their own top_k cuts what both found.
HYBRID = ("ElasticsearchHybridRetriever", "OpenSearchHybridRetriever")
HEAD = """\
# Written by `secondpass tune` out of {file}: the ranker orders what each retriever finds as {tuned} says.
# Where that file moves, change `tuned:` below; `secondpass` also looks for it beside this one.
"""


def write_tuned(
    pipeline: str,
    tuned: Path,
    output: Path,
    depth: int | None = None,
    reading: Mapping[str, Any] | None = None,
) -> None:
    """Write a pipeline with a SecondPassTunedRanker in place of its ranker, and each retriever connected to it.

    A joiner in front of the ranker goes, as do retrievers that were not tuned with and what only they need. All else
    stays as it is, comments of the file aside. What a tuned ranker does not take goes, which is said: `score_threshold`
    and the like, links to it, a `min_probability` where none were fitted.

    Args:
        pipeline: file or packaged name.
        tuned: what `secondpass tune` wrote; the pipeline names it by its whole path.
        output: the file to write.
        depth: how many documents each retriever was asked for in tuning, where that is not its own top_k.
        reading: parameters of the ranker that had other values in tuning than the file says.

    Raises:
        InvalidInput: the pipeline has not one ranker, or no component of the name of a first pass in front of it.
    """
    file = pipeline_file(pipeline)
    data = read_pipeline(file)
    ranker, found = candidates_of(data, file)
    chosen = read_tuned(tuned)
    for name in chosen.first:
        if name not in found:
            raise InvalidInput(f"{file}: the first pass {name!r} is none of {', '.join(found)}")
    before = above(data.get("connections") or [], ranker)
    data = _without_lacking(data, ranker)
    links = [link for link in data["connections"] if not _feeds(link, ranker)]
    links += [{"sender": f"{name}.{found[name]}", "receiver": f"{ranker}.{name}"} for name in chosen.first]
    given = data["components"][ranker].get("init_parameters") or {}
    own = {name: given[name] for name in (*KEPT, *READING) if name in given} | dict(reading or {})
    if own.get("min_probability") is not None and (chosen.after is None or chosen.calibration is None):
        note(f"{ranker!r} has min_probability={own.pop('min_probability')}: left out, as no probabilities were fitted")
    changed = {"type": TUNED_RANKER, "init_parameters": {"tuned": str(tuned.resolve()), **own}}
    parts = {**data["components"], ranker: changed}
    if depth is not None:
        parts |= {name: _finding(parts[name], depth) for name in _finders(parts, links, chosen.first)}
    data = {**data, "components": parts, "connections": links}
    made = without_idle(data, data["components"].keys() - before)
    head = HEAD.format(file=file.name, tuned=tuned.name)
    text = yaml.dump(made, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    output.write_text(head + text, encoding="utf-8")


def _without_lacking(data: dict[str, Any], ranker: str) -> dict[str, Any]:
    """A pipeline's dictionary without what goes into inputs that a tuned ranker lacks; what is left out is said."""
    usual = {name: one.default for name, one in signature(SecondPassRanker.__init__).parameters.items()}
    given = data["components"][ranker].get("init_parameters") or {}
    own, gone = ("model", *KEPT, *READING), [ranker + one for one in LACKING]
    links, inputs = data.get("connections") or [], data.get("inputs") or {}
    said = [f"{name}={value!r}" for name, value in given.items() if name not in own and value != usual.get(name)]
    said += [f"{link['sender']} connected to {link['receiver']}" for link in links if link["receiver"] in gone]
    said += [f"{one} in inputs" for sockets in inputs.values() for one in sockets if one in gone]
    for one in said:
        note(f"{ranker!r} has {one}: left out, as a tuned ranker does not take it")
    lists = {name: sockets for name, sockets in inputs.items() if isinstance(sockets, list)}
    kept = {name: [one for one in sockets if one not in gone] for name, sockets in lists.items()}
    return {**data, "connections": [link for link in links if link["receiver"] not in gone], "inputs": inputs | kept}


def _finders(parts: Mapping[str, Any], links: list[dict[str, str]], first: Iterable[str]) -> set[str]:
    """The retrievers that were asked for so many documents: they take a top_k, and nothing above them does."""
    before = {name for one in first for name in (one, *above(links, one))}
    taking = {name for name in before if name in parts and _takes_top_k(parts[name])}
    return {name for name in taking if not (above(links, name) - {name}) & taking}


def _takes_top_k(part: dict[str, Any]) -> bool:
    if part["type"].endswith(HYBRID) or "top_k" in (part.get("init_parameters") or {}):
        return True
    try:
        made: Any = import_class_by_name(part["type"])
    except (ImportError, DeserializationError):
        return False
    return "top_k" in signature(made.__init__).parameters


def _finding(part: dict[str, Any], depth: int) -> dict[str, Any]:
    """A retriever that finds so many documents."""
    sockets = ("top_k_bm25", "top_k_embedding") if part["type"].endswith(HYBRID) else ("top_k",)
    return {**part, "init_parameters": {**(part.get("init_parameters") or {}), **dict.fromkeys(sockets, depth)}}


def for_tuning(data: dict[str, Any], file: Path, taken: Container[str] = ()) -> dict[str, Any]:
    """A pipeline's dictionary down to its ranker, which gives the logits of all that each retriever found.

    Of a cascade the last model reads.

    Raises:
        InvalidInput: the pipeline has not one ranker, nothing in front of it, a retriever whose name is `taken`, or one
            whose documents come from another socket than "documents": no search knows what it found.
    """
    data = without_evaluation(data)
    ranker, found = candidates_of(data, file)
    for name, socket in _senders(data, ranker):
        if socket != "documents":
            raise InvalidInput(f"{file}: {ranker!r} has documents of '{name}.{socket}': tuning takes 'documents' alone")
    if twice := next((name for name in found if name in taken), None):
        raise InvalidInput(f"{file}: the component {twice!r} has the name of a --field or of the scores that are tuned")
    links = data.get("connections") or []
    links = [link for link in links if not (_feeds(link, ranker) or link["receiver"].removeprefix(ranker) in LACKING)]
    links += [{"sender": f"{name}.{socket}", "receiver": f"{ranker}.documents"} for name, socket in found.items()]
    kept = {ranker, *above(links, ranker)}
    given = data["components"][ranker].get("init_parameters") or {}
    own = {name: given[name] for name in ("model", *READING) if name in given and name != "budget_ms"}
    if isinstance(own.get("model"), list):
        own["model"] = own["model"][-1]
    made = only({**data, "connections": links}, kept)
    made["components"][ranker] = {"type": RANKER, "init_parameters": {**own, "scale_score": False}}
    return made


def tuned_digests(file: Path) -> dict[str, str]:
    """SHA-256 of what a pipeline file's tuned rankers apply, by their names."""
    found = {
        name: path / FILE if path.is_dir() else path for name, path in tuned_files(read_pipeline(file), file).items()
    }
    return {name: sha256(path.read_bytes()).hexdigest() for name, path in found.items() if path.is_file()}


def tuned_models(file: Path) -> list[str]:
    """The models that a pipeline file's tuned rankers read with where the pipeline names none."""
    found = [path for path in tuned_files(read_pipeline(file), file).values() if path.exists()]
    return [name for path in found if (name := read_tuned(path).model) is not None]


def candidates_of(data: Mapping[str, Any], file: Path) -> tuple[str, dict[str, str]]:
    """The ranker, and the socket of each component that gives it documents, by its name; joiners are seen through.

    Raises:
        InvalidInput: the pipeline has not one ranker, or nothing in front of it.
    """
    rankers = [name for name, part in data["components"].items() if type_of(part) == RANKER]
    if any(type_of(part) == TUNED_RANKER for part in data["components"].values()):
        raise InvalidInput(f"{file}: is tuned already; tune the pipeline that it was made from")
    if len(rankers) != 1:
        raise InvalidInput(f"{file}: {len(rankers)} components are a SecondPassRanker, and one is tuned")
    found = dict(_senders(data, rankers[0]))
    if not found:
        raise InvalidInput(f"{file}: no component gives {rankers[0]!r} documents, so there is no first pass in it")
    return rankers[0], found


def _senders(data: Mapping[str, Any], receiver: str, behind: Set[str] = frozenset()) -> Iterator[tuple[str, str]]:
    for link in data.get("connections") or []:
        if _feeds(link, receiver):
            name, _, socket = link["sender"].partition(".")
            if name in behind:  # joiners in a circle
                continue
            if type_of(data["components"].get(name)) == JOINER:
                yield from _senders(data, name, behind | {name})
            else:
                yield name, socket or "documents"


def _feeds(link: Mapping[str, str], name: str) -> bool:
    """Whether a connection gives a component its documents; Haystack lets sockets go unsaid."""
    given = link["sender"].partition(".")[2] in ("", "documents")
    return link["receiver"] == f"{name}.documents" or (link["receiver"] == name and given)


def without_idle(data: dict[str, Any], ends: Set[str]) -> dict[str, Any]:
    """A pipeline's dictionary without components that give nothing to anybody, the `ends` aside."""
    used = set(ends).union(*(above(data["connections"], end) for end in ends))
    made = only(data, used & data["components"].keys())
    shown = {
        name: [socket for socket in sockets if socket.partition(".")[0] in made["components"]]
        if isinstance(sockets, list)
        else sockets
        for name, sockets in (data.get("inputs") or {}).items()
    }
    made["inputs"] = {name: sockets for name, sockets in shown.items() if sockets}
    if not made["inputs"]:
        del made["inputs"]
    return made


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines, such as prompts, as they are."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
