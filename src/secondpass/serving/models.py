"""The models that one service answers with, by name."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

from pydantic import BaseModel

from secondpass.calibration import Calibration
from secondpass.cascade import Cascade, Keep
from secondpass.cross_encoder import CrossEncoder
from secondpass.errors import InvalidInput, ModelLoadError
from secondpass.inputs import Truncation, policy_of
from secondpass.merging.scoring_thread import MergedBatch
from secondpass.merging.shared import SharedReranker
from secondpass.models.config import read_json
from secondpass.models.folders import cascade_file, folder_of, holds_cascade
from secondpass.models.modules import stored_weights
from secondpass.models.templates import ANSWER, check_alone
from secondpass.reranker import Reranker
from secondpass.score_cache import cache_named
from secondpass.serving.problems import Problem
from secondpass.serving.settings import ModelSource, Settings
from secondpass.token_cache import TokenCache
from secondpass.windows import Windows

Model = TypeVar("Model", CrossEncoder, Cascade)
Watch = Callable[[str, MergedBatch], object]


class LoadedModels(dict[str, Reranker | Cascade]):
    """Loaded models by name, and the SHA-256 of the weights of each."""

    def __init__(self) -> None:
        super().__init__()
        self.digests: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Stage:
    """A model of a cascade, or the only one: the queue in front of it, and which documents go on to it; None: all."""

    shared: SharedReranker
    keep: Keep | None = None


@dataclass(slots=True)
class Served:
    """One model: its name, the engine, the queue in front of it, its window in tokens, and the type it computes in.

    Of a cascade that is its last model; `stages` are all of them, `queues` those that are in front of no other name.
    `digest` is the SHA-256 of its weights file (of several, one after the other), None for a model that was handed over
    loaded; `standing` is the service's word on what is read of pairs that are too long, None leaves that to the model;
    `instruction` is what those of a cascade's models with a place are told where a request says none; `created` is when
    it began to serve, in seconds since 1970; `users` are requests under way.
    """

    name: str
    reranker: Reranker
    shared: SharedReranker
    window: int
    dtype: str
    stages: tuple[Stage, ...]
    queues: tuple[SharedReranker, ...]
    standing: Truncation | Windows | None = None
    instruction: str | None = None
    digest: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    users: int = 0

    @property
    def truncation(self) -> Truncation | Windows:
        """What is read of a pair that is too long where a request does not say it."""
        return self.reranker.truncation if self.standing is None else self.standing


class CalibrationInfo(BaseModel):
    """What probabilities were fitted on: queries, documents (`rows`), those judged relevant, those that nobody judged.

    `origin` says where the labels come from, and is empty for people; `refuses`, whether there is a rule for "nothing
    relevant".
    """

    method: str
    queries: int
    rows: int
    relevant: int
    unjudged: int
    origin: str
    error: float | None
    refuses: bool

    @classmethod
    def of(cls, found: Calibration | None) -> CalibrationInfo | None:
        """As it is served; None where there is none."""
        if found is None:
            return None
        names = cls.model_fields.keys() - {"refuses"}
        return cls(refuses=found.answers is not None, **{name: getattr(found, name) for name in names})


class Models:
    """Every served model; the first is the default. Used by one event loop only."""

    def __init__(self, rerankers: Mapping[str, Reranker | Cascade], settings: Settings, watch: Watch) -> None:
        """Put a queue in front of each model, and give a token cache to each that has none of its own.

        Raises:
            InvalidInput: there is no model, one has several labels, of which none is the relevance, or no shadow.
        """
        self._settings = settings
        self._watch = watch
        size = settings.token_cache_mb * 2**20
        self.token_cache = TokenCache(size) if size else None
        if settings.truncation is not None:
            policy_of(settings.truncation)
        file = settings.score_cache
        self.score_cache = None if file is None else cache_named(file, settings.score_cache_mb)
        self._served = self._queued(rerankers)
        _check_shadows(settings, self._served)
        # of its own, for which the end of the event loop does not wait
        self._loader = ThreadPoolExecutor(1, "secondpass-load")
        self._loading: Future[LoadedModels] | None = None

    def _queued(self, rerankers: Mapping[str, Reranker | Cascade]) -> dict[str, Served]:
        if not rerankers:
            raise InvalidInput("no model is given")
        for name, model in rerankers.items():
            labels = max(reranker.num_labels for reranker in _models_of(model))
            if labels != 1:
                raise InvalidInput(f"model {name!r} has {labels} labels: only models with one can be served")
        known: dict[int, SharedReranker] = {}
        # a cascade's models share the queues of those that are served by themselves
        alone_first = sorted(rerankers, key=lambda name: isinstance(rerankers[name], Cascade))
        served = {name: self._queued_one(name, rerankers[name], known) for name in alone_first}
        if isinstance(rerankers, LoadedModels):
            for name, digest in rerankers.digests.items():
                served[name].digest = digest
        return {name: served[name] for name in rerankers}

    def _queued_one(self, name: str, model: Reranker | Cascade, known: dict[int, SharedReranker]) -> Served:
        """Put queues in front of a model, or of those of a cascade that have none; `known` are queues by model."""
        steps = (None, *model.keep) if isinstance(model, Cascade) else (None,)
        stages, own = [], []
        for reranker, keep in zip(_models_of(model), steps, strict=True):
            if isinstance(model, Reranker) or id(reranker) not in known:
                own.append(self._queue(name, reranker))
                known.setdefault(id(reranker), own[-1])
            stages.append(Stage(own[-1] if isinstance(model, Reranker) else known[id(reranker)], keep))
        # Read once: while a batch runs, the forward has no time for questions.
        standing, parts = self._settings.truncation, (tuple(stages), tuple(own))
        told = model.instruction if isinstance(model, Cascade) else None  # any other model knows its own
        return Served(name, reranker, stages[-1].shared, reranker.window, reranker.dtype_name, *parts, standing, told)

    def _queue(self, name: str, reranker: Reranker) -> SharedReranker:
        if reranker.token_cache is None:
            reranker.use_token_cache(self.token_cache)
        if reranker.score_cache is None:
            reranker.use_score_cache(self.score_cache)
        settings, watch = self._settings, self._watch
        return SharedReranker(
            reranker,
            max_waiting_pairs=settings.max_waiting_pairs,
            max_waiting_tokens=settings.max_waiting_tokens,
            max_wait_ms=settings.max_wait_ms,
            watch=lambda batch: watch(name, batch),
        )

    def __iter__(self) -> Iterator[Served]:
        return iter(self._served.values())

    @property
    def digests(self) -> dict[str, str | None]:
        """What serves: the SHA-256 of the weights by model."""
        return {served.name: served.digest for served in self}

    @property
    def are_loading(self) -> bool:
        """Whether a thread loads models anew, be it for nobody any more."""
        return self._loading is not None and self._loading.running()

    def get(self, name: str | None) -> Served:
        """The model of a request.

        Raises:
            Problem: 404, there is none of this name; the message names those there are.
        """
        if name is None:
            return next(iter(self))
        if name not in self._served:
            there = ", ".join(self._served)
            raise Problem(404, "unknown_model", f"model: there is none of this name; there is {there}")
        return self._served[name]

    def waiting(self, name: str) -> int:
        """Pairs in front of a model."""
        return sum(queue.load.pairs for queue in self.get(name).queues)

    @contextmanager
    def held(self, name: str | None) -> Iterator[Served]:
        """The model of a request, which stays until the request is done with it.

        Raises:
            Problem: 404, as `get`.
        """
        served = self.get(name)
        served.users += 1
        try:
            yield served
        finally:
            served.users -= 1

    async def reload(self) -> tuple[Served, ...]:
        """Load the models of the settings anew; new requests go to them, old ones stay where they are.

        Returns:
            The old models, to `retire`.

        Raises:
            ModelLoadError: one cannot be had; the old ones stay.
            InvalidInput: one cannot be served; the same.
        """
        self._loading = self._loader.submit(load_models, self._settings)
        try:
            loaded = await asyncio.wrap_future(self._loading)
        finally:
            if self._loading.done():
                self._loading = None
        old, self._served = tuple(self), self._queued(loaded)
        return old

    async def retire(self, old: tuple[Served, ...]) -> None:
        """End models that were replaced, once they have finished what they began."""
        while any(served.users for served in old):
            await asyncio.sleep(RETIRE_EVERY_S)
        await asyncio.to_thread(_retire, old)

    def close(self) -> None:
        """Finish what was accepted and end the scoring threads."""
        for queue in _queues(tuple(self)):
            queue.close(drain=True)
        if self.score_cache is not None:
            self.score_cache.close()


def _check_shadows(settings: Settings, names: Container[str]) -> None:
    """Refuse a shadow that nobody has, of nobody or of itself, and a second one of a model."""
    seen = set[str]()
    for name, shadow in settings.shadows:
        unknown = next((one for one in (name, shadow) if one not in names), None)
        if unknown is not None or name == shadow or name in seen:
            reason = "a model has one shadow, which is another" if unknown is None else f"there is no model {unknown!r}"
            raise InvalidInput(f"shadow {name}={shadow}: {reason}")
        seen.add(name)


def _models_of(model: Reranker | Cascade) -> tuple[Reranker, ...]:
    return model.models if isinstance(model, Cascade) else (model,)


def _queues(models: tuple[Served, ...]) -> list[SharedReranker]:
    return [queue for served in models for queue in served.queues]


# How often it is asked whether a model that was replaced is done with.
RETIRE_EVERY_S = 0.05


def _retire(old: tuple[Served, ...]) -> None:
    for queue in _queues(old):
        queue.close(drain=True)
    for queue in _queues(old):
        queue.reranker.close()


def load_models(settings: Settings) -> LoadedModels:
    """Load every model of the settings, each source once.

    Raises:
        ModelLoadError: one cannot be had, or its weights were changed meanwhile.
        InvalidInput: the length, the device or the precision is refused, or a cascade cannot be.
    """
    load = cache(lambda *which: _loaded(settings, *which))
    named = {model.name: model for model in settings.models}
    loaded = [part for model in settings.models for part in model.stages or (model.name,)]
    sources = [named[part].source if part in named else part for part in loaded]
    check_alone(sources, {name: getattr(settings, name) for name in ANSWER})
    made = LoadedModels()
    for model in settings.models:
        parts = [named.get(part, ModelSource(part, part)) for part in model.stages]
        if any(part.stages for part in parts) or (model.keep and not parts):
            raise InvalidInput(f"model {model.name!r}: --keep is of models in a row, which are no cascades themselves")
        if parts:
            files: list[tuple[str | None, ...]] = [(part.calibration,) for part in parts]
            if model.calibration not in (None, *files[-1]):
                files[-1] = (model.calibration, model.instruction)
            # the cascade's instruction goes with its requests: its models may have other names too
            found = [load(part.source, part.instruction, *file) for part, file in zip(parts, files, strict=True)]
            steps = (model.keep or DEFAULT_KEEP) * (len(parts) - 1 if len(model.keep) < 2 else 1)
            made[model.name] = Cascade([reranker for reranker, _ in found], steps, instruction=model.instruction)
            made.digests[model.name] = found[-1][1]
        elif holds_cascade(model.source):
            if settings.max_length is not None:
                raise InvalidInput(f"max_length: the models of {model.source} have the windows that its rule is for")
            read = partial(Cascade.load, model.source, **_options(settings, model.instruction))
            stored, made.digests[model.name] = _ready(settings, _names(model.source), read)
            made[model.name] = stored
            if model.calibration is not None:
                stored.use_calibration(model.calibration)
        else:
            made[model.name], made.digests[model.name] = load(model.source, model.instruction, model.calibration)
    return made


DEFAULT_KEEP = (100,)


def _options(settings: Settings, instruction: str | None) -> dict[str, Any]:
    names = ("device", "precision", *ANSWER)
    return {"instruction": instruction, **{name: getattr(settings, name) for name in names}}


def _loaded(
    settings: Settings, source: str, instruction: str | None, calibration: str | None, told: str | None = None
) -> tuple[Reranker, str]:
    """A model and the digest of its weights; `told` is what a cascade's calls say to it."""
    read = partial(CrossEncoder, source, max_length=settings.max_length, **_options(settings, instruction))
    encoder, digest = _ready(settings, [source], read)
    if calibration is not None:
        encoder.use_calibration(calibration, told)
    return encoder, digest


def _names(source: str) -> list[str]:
    """The models that a stored cascade names; none where it is one that `Cascade.load` refuses."""
    page = read_json(cascade_file(source))
    try:
        return [str(one["name"]) for one in page["models"]]
    except (KeyError, TypeError):
        return []


def _ready(settings: Settings, sources: Sequence[str], read: Callable[[], Model]) -> tuple[Model, str]:
    """A model, or a cascade of those sources, that has scored once; and the digest of the last source's weights."""
    before = [_stamps(source) for source in sources]
    made = read()
    digest = digest_of(sources[-1])
    if [_stamps(source) for source in sources] != before:
        raise ModelLoadError(f"the weights of {' or '.join(sources)} were changed while they were read")
    # What happens once a model, such as choosing its forward, happens before anybody waits for it.
    for encoder in _models_of(made):
        encoder.rank_many(["ready?"], [["yes"]], relevance=0, show_progress_bar=False)
        told = encoder.engine().ready().identity
        if settings.score_cache is not None and told is not None:
            told()
    return made, digest


def _stamps(source: str) -> list[tuple[int, ...]]:
    """What changes with the files of a model's weights."""
    stats = [path.stat() for path in stored_weights(folder_of(source))]
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for stat in stats]


def digest_of(source: str) -> str:
    """SHA-256 of a model's weights, as 64 hexadecimal digits; what `sha256sum model.safetensors` says.

    Raises:
        ModelLoadError: there are none.
    """
    digest = hashlib.sha256()
    for path in stored_weights(folder_of(source)):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
