"""Pipelines as YAML files: found by path or packaged name, loaded under Haystack's default allow-list.

A search gives queries of its own and measures, if at all, over all of them; nodes that measure one query at a time
and nodes that say which query it is are set aside.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from secondpass.cli.output import ours
from secondpass.errors import InvalidInput, MissingExtra, SecondPassError
from secondpass.lazy import optional
from secondpass_pipelines.stores import ENGINES, point_stores
from secondpass_servers.two_pass import shortened

if TYPE_CHECKING:
    from haystack import Pipeline

RANKER = "haystack_integrations.components.rankers.secondpass.ranker.SecondPassRanker"
TUNED_RANKER = "haystack_integrations.components.rankers.secondpass.tuned_ranker.SecondPassTunedRanker"
# The sockets that a question is for, needed or not: a prompt's variables may all be optional.
QUESTIONS = ("query", "question")
JOINER = "haystack.components.joiners.document_joiner.DocumentJoiner"
# Parameters of the ranker that mean nothing without the one they describe: another value of that leaves them out.
DETAILS = {"model": "keep", "truncation": "windows"}
IN_MEMORY = "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"
# In the types of components that load a model of the hub by its client's rules; ours say by themselves what they lack.
EMBEDDING = "sentence_transformers"
# What of ours brings the components and stores of other distributions, by a part of their types.
EXTRAS = {
    ".elasticsearch.": "haystack-elasticsearch",
    ".opensearch.": "haystack-opensearch",
    f".embedders.{EMBEDDING}.": "embedding",
}
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB = "https://huggingface.co"
HUB_SECONDS = 0.8
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# Haystack's own, ours and those of other integrations.
PLACES = ("haystack.components.evaluators.", "haystack_integrations.components.evaluators.")
EVALUATOR = "haystack_integrations.components.evaluators.secondpass.evaluator.SecondPassEvaluator"


def pipeline_file(name_or_path: str) -> Path:
    """Find a pipeline: an existing file, else a packaged one by its name, with or without .yaml.

    Raises:
        InvalidInput: neither is there; the message lists the packaged names.
    """
    given = Path(name_or_path)
    if given.is_file():
        return given
    packaged = _packaged()
    found = packaged.get(name_or_path.removesuffix(".yaml"))
    if found is None:
        raise InvalidInput(f"{name_or_path}: no such pipeline file; the packaged ones are {', '.join(packaged)}")
    return found


def _packaged() -> dict[str, Path]:
    """Packaged pipelines by name. A wheel has them inside the package, a source checkout beside src/."""
    package = Path(str(files("secondpass")))
    folders = [package / "pipelines"]
    if (package.parents[1] / "pyproject.toml").is_file():
        folders.append(package.parents[1] / "pipelines")
    return {file.stem: file for folder in folders for file in sorted(folder.glob("*.yaml"))}


def load_pipeline(
    file: Path,
    model: str | list[str] | None = None,
    index: str | None = None,
    instruction: str | None = None,
    ranker: Mapping[str, Any] | None = None,
    shaped: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Pipeline:
    """Load the searching part of a pipeline.

    `model`, `instruction` and further parameters take the place of what its last SecondPassRanker has, or each of the
    last ones on several branches. `shaped` may make another pipeline's dictionary of the file's.

    Stores of Elasticsearch and OpenSearch use the server that the environment names and the given `index`.

    Evaluators and labelled queries in it are set aside (`without_evaluation`). In-memory stores get an index of their
    own: stores of one index are shared in the process, and what an earlier pipeline wrote into them must not be found
    by this one.

    Raises:
        InvalidInput: the file is no pipeline, or names a component that is not installed or not allowed.
        MissingExtra: it has a component that needs torch, or one that an extra of ours brings.
    """
    from haystack import Pipeline

    data = without_evaluation(read_pipeline(file))
    if shaped is not None:
        data = shaped(data)
    for name, value in (("model", model), ("instruction", instruction), *(ranker or {}).items()):
        if value is not None:
            _set(data, name, value, file)
    for name, tuned in tuned_files(data, file).items():
        part = data["components"][name]
        part["init_parameters"] = {**part["init_parameters"], "tuned": str(tuned)}
    point_stores(data["components"], index)
    _own_indexes(data["components"])
    try:
        return Pipeline.from_dict(data)
    except SecondPassError as error:
        raise InvalidInput(f"{file}: {error}") from error
    except Exception as error:
        if isinstance(lacking := ours(error), MissingExtra):
            raise MissingExtra(f"{file}: {lacking}") from error
        if absent := _absent(error, data):
            raise MissingExtra(f"{file}: {absent}") from error
        raise InvalidInput(f"{file}: cannot be loaded: {error}") from error


def _absent(error: BaseException | None, data: dict[str, Any]) -> str | None:
    """The type that is not installed, and the extras for all of the pipeline; None where the error is of another kind.

    The error names a module, which may be a namespace that several distributions share.
    """
    while error is not None and not isinstance(error, ModuleNotFoundError):
        error = error.__cause__
    lost = getattr(error, "name", None)
    kinds = re.findall(r"haystack_integrations\.[\w.]+", str(data))
    known = [kind for kind in kinds if any(part in kind for part in EXTRAS)]
    absent = [kind for kind in known if kind.startswith(f"{lost}.")]
    extras = sorted({extra for part, extra in EXTRAS.items() if any(part in kind for kind in known)})
    return f'{absent[0]} is not installed: pip install "secondpass[{",".join(extras)}]"' if absent else None


def read_pipeline(file: Path) -> dict[str, Any]:
    """Read the dictionary of a pipeline file; no component is made.

    Raises:
        InvalidInput: the file is no pipeline.
    """
    from haystack.marshal import YamlMarshaller

    try:
        data = YamlMarshaller().unmarshal(file.read_text(encoding="utf-8"))
    except Exception as error:
        raise InvalidInput(f"{file}: not a YAML file that can be read: {error}") from error
    if not isinstance(data, dict) or not isinstance(data.get("components"), dict) or not data["components"]:
        raise InvalidInput(f"{file}: not a Haystack pipeline: it has no components")
    links = data.get("connections") or []
    for row, link in enumerate(links if isinstance(links, list) else [links]):
        if not isinstance(link, dict) or not all(isinstance(link.get(end), str) for end in ("sender", "receiver")):
            raise InvalidInput(f"{file}: connections[{row}] does not say sender and receiver: {link!r}")
    return data


def _set(data: dict[str, Any], name: str, value: Any, file: Path) -> None:
    rankers = [data["components"][one] for one in last_rankers(data)]
    if not rankers:
        raise InvalidInput(f"{file}: no SecondPassRanker in it that could take the {name} {value}")
    for ranker in rankers:
        given = ranker.get("init_parameters") or {}
        others = {key: kept for key, kept in given.items() if key != DETAILS.get(name)}
        ranker["init_parameters"] = {**others, name: value}


def _own_indexes(components: dict[str, Any]) -> None:
    suffix = uuid.uuid4().hex
    renamed: set[int] = set()
    for component in components.values():
        settings = component.get("init_parameters") if isinstance(component, dict) else None
        store = settings.get("document_store") if isinstance(settings, dict) else None
        # A YAML anchor makes one dict appear in several components.
        if isinstance(store, dict) and store.get("type") == IN_MEMORY and id(store) not in renamed:
            renamed.add(id(store))
            own = store.get("init_parameters") or {}
            if own.get("index") is not None:
                store["init_parameters"] = {**own, "index": f"{own['index']}-{suffix}"}


def tuned_files(data: dict[str, Any], pipeline: Path) -> dict[str, Path]:
    """What its tuned rankers apply, by their names; a file that is not there is looked for beside the pipeline."""
    found: dict[str, Path] = {}
    for name, part in data["components"].items():
        given = (part.get("init_parameters") or {}).get("tuned") if type_of(part) == TUNED_RANKER else None
        if isinstance(given, str):
            beside = pipeline.parent / Path(given).name
            found[name] = beside if beside.exists() and not Path(given).exists() else Path(given)
    return found


def type_of(value: object) -> object:
    """The type that a part of a pipeline's dictionary states; None where it states none."""
    return value.get("type") if isinstance(value, dict) else None


def rankers_of(data: Mapping[str, Any]) -> list[str]:
    """Names of the rankers of ours, in the order of the file."""
    return [name for name, part in data["components"].items() if type_of(part) in (RANKER, TUNED_RANKER)]


def last_rankers(data: Mapping[str, Any]) -> list[str]:
    """Names of the rankers of ours that are above no other of ours: one, or one on each of several branches."""
    links, rankers = data.get("connections") or [], rankers_of(data)
    earlier = {other for name in rankers for other in above(links, name) - {name}}
    return [name for name in rankers if name not in earlier] or rankers


def down_to_ranker(data: dict[str, Any]) -> dict[str, Any]:
    """A pipeline's dictionary down to its last ranker of ours, without what cuts, reorders or reads its documents.

    Whole where there is no such ranker, one on each of several branches, or a joiner that puts others' documents
    beside its own: the ranker is not the second pass then.
    """
    links, last = data.get("connections") or [], last_rankers(data)
    if len(last) != 1:
        return data
    kept = {last[0], *above(links, last[0])}
    below = {name for name in data["components"] if last[0] in above(links, name)}
    joiners = {name for name in below - kept if type_of(data["components"][name]) == JOINER}
    ends = [tuple(link[end].partition(".")[0] for end in ("sender", "receiver")) for link in links]
    if any(receiver in joiners and sender not in {*last, *below} for sender, receiver in ends):
        return data
    return only(data, kept)


def only(data: Mapping[str, Any], names: Set[str]) -> dict[str, Any]:
    """A pipeline's dictionary with these components, and the connections among them."""
    components = {name: part for name, part in data["components"].items() if name in names}
    links = [link for link in data.get("connections") or [] if _ends(link) <= names]
    return {**data, "components": components, "connections": links}


def above(links: list[dict[str, str]], name: str) -> set[str]:
    """Components whose output reaches `name`."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        receiver = waiting.pop()
        for link in links:
            sender = link["sender"].partition(".")[0]
            if link["receiver"].partition(".")[0] == receiver and sender not in found:
                found.add(sender)
                waiting.append(sender)
    return found


def without_evaluation(data: dict[str, Any]) -> dict[str, Any]:
    """Return a pipeline's dictionary without its evaluation nodes and the connections from and to them."""
    components = data["components"]
    kept = {name: part for name, part in components.items() if not str(type_of(part)).startswith(PLACES)}
    links = [link for link in data.get("connections") or [] if not _ends(link) & (components.keys() - kept)]
    return {**data, "components": kept, "connections": links}


def measures_of(data: dict[str, Any]) -> tuple[str, ...]:
    """Names of the measures that a pipeline's SecondPassEvaluators state, each once, in the order of the file."""
    return tuple(dict.fromkeys(name for component in data["components"].values() for name in _measures(component)))


def model_of(data: dict[str, Any]) -> str | list[str] | None:
    """The model or models that a pipeline's last ranker of ours names, None where there are none."""
    named = ranker_of(data).get("model")
    return named if isinstance(named, (str, list)) and named else None


def ranker_of(data: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a pipeline's last ranker of ours; none where there is no such ranker."""
    rankers = last_rankers(data)
    found: dict[str, Any] = (data["components"][rankers[-1]].get("init_parameters") or {}) if rankers else {}
    return found


def _measures(component: Any) -> Iterator[str]:
    if type_of(component) == EVALUATOR:
        settings = component.get("init_parameters")
        stated = settings.get("measures") if isinstance(settings, dict) else None
        yield from (name for name in stated or () if isinstance(name, str))


def _ends(link: object) -> set[str]:
    """Names of the two components that a connection joins."""
    if not isinstance(link, dict):
        return set()
    return {str(link.get(end)).split(".", maxsplit=1)[0] for end in ("sender", "receiver")}


def inputs_to(sockets: Iterable[tuple[str, str]], value: object) -> dict[str, dict[str, Any]]:
    """Inputs by component that give `value` to each (component, socket)."""
    made: dict[str, dict[str, Any]] = {}
    for component, name in sockets:
        made.setdefault(component, {})[name] = value
    return made


def query_inputs(sockets: Iterable[tuple[str, str]], query: str, limited: Collection[str]) -> dict[str, dict[str, Any]]:
    """The same for a query, of which components named in `limited` get no more words than a server takes (1,024)."""
    short = shortened(query) if limited else query
    made = inputs_to(sockets, query)
    return {name: dict.fromkeys(given, short) if name in limited else given for name, given in made.items()}


def need_haystack(pipeline: str | None = None) -> None:
    """Import Haystack, without the usage data that it would send over the network; `pipeline` is checked before that.

    Raises:
        InvalidInput: there is no such pipeline, or it needs a model that is not here and cannot be downloaded.
        MissingExtra: Haystack is not installed.
    """
    if pipeline is not None:
        refuse_models_out_of_reach(pipeline_file(pipeline))
    os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "false")
    optional("haystack", "Haystack", "haystack")


def refuse_models_out_of_reach(file: Path) -> None:
    """Refuse at once what the model hub's client would try for minutes: to download without a network.

    Where all models are here, the client is told in this process not to ask.

    Raises:
        InvalidInput: a component's model is neither a folder nor in the hub's cache, and the hub does not answer
            within `HUB_SECONDS`; the message has the component, the model and a packaged pipeline that needs none.
    """
    named = _hub_models(file)
    if not named or _hub_answers():
        return
    for component, model in named.items():
        if not _in_cache(model):
            raise InvalidInput(
                f"{file}: {component!r} needs the model {model}, which is not on this machine, and the model hub is "
                "out of reach (no network, or HF_HUB_OFFLINE): put the folder of a copy under `model:`, or take a "
                f"pipeline that needs no download, such as {_with_words_alone(file)}"
            )
    from huggingface_hub import constants

    # As HF_HUB_OFFLINE does: for a model in the cache too the client would ask and wait, file by file.
    constants.HF_HUB_OFFLINE = True


def _hub_models(file: Path) -> dict[str, str]:
    """Names of hub models by the component that loads them; {} for what is no pipeline, which others refuse."""
    import yaml

    named: dict[str, str] = {}
    try:
        for name, part in yaml.safe_load(file.read_text(encoding="utf-8"))["components"].items():
            model = (part.get("init_parameters") or {}).get("model")
            if EMBEDDING not in part["type"] or not isinstance(model, str) or Path(model).exists():
                continue
            if HUB_NAME.fullmatch(model):
                named[name] = model if "/" in model else f"sentence-transformers/{model}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        return {}
    return named


def _hub_answers() -> bool:
    """Whether somebody listens where the hub's client would go: at the hub itself, or at a proxy on the way."""
    if any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE):
        return False
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    proxy = None if proxy_bypass(hub.hostname or "") else getproxies().get(hub.scheme)
    place = urlsplit(proxy) if proxy else hub
    address = (place.hostname or "", place.port or (443 if place.scheme == "https" else 80))
    reached, done = threading.Event(), threading.Event()

    def knock() -> None:
        with suppress(OSError, ValueError), socket.create_connection(address, HUB_SECONDS):
            reached.set()
        done.set()

    # Looking a name up has no time limit of its own.
    threading.Thread(target=knock, daemon=True).start()
    done.wait(HUB_SECONDS)
    return reached.is_set()


def _in_cache(model: str) -> bool:
    """Whether the hub's cache holds a model with its weights."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", cache_dir=os.environ.get("SENTENCE_TRANSFORMERS_HOME"))
    return isinstance(config, str) and any(
        path.suffix in (".safetensors", ".bin") for path in Path(config).parent.iterdir()
    )


def _with_words_alone(file: Path) -> str:
    """The packaged pipeline that searches the same kind of store by BM25."""
    text = file.read_text(encoding="utf-8")
    return next((f"rerank_{name.lower()}_bm25" for kind, name in ENGINES.items() if kind in text), "rerank_bm25")
