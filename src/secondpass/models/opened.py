"""A loaded model while it is open: how it computes now, transformers' objects for whoever asks, and lending it out."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondpass.activations import Activation, default_activation
from secondpass.calibration import Calibration
from secondpass.errors import CheckpointError, InvalidInput, SecondPassError
from secondpass.forwards.choosing import WHOLE, StoredForward, has_torch, stored_forward
from secondpass.forwards.contract import Computation, Forward, Padding, PortableForward, padding_of
from secondpass.forwards.families import family_of
from secondpass.forwards.kernel.native import own_thread_count
from secondpass.forwards.precision import (
    SAMPLE_DOCUMENTS,
    SAMPLE_QUERIES,
    Precision,
    checked_precision,
    precision_of,
    recommended_precision,
)
from secondpass.lazy import optional
from secondpass.models.card import write_card
from secondpass.models.folders import put_in_place, unfinished_folder
from secondpass.models.identity import put_calibration
from secondpass.models.loading import Loaded, devices_of, pick_device
from secondpass.models.stored import StoredModel
from secondpass.models.templates import published_activation
from secondpass.scoring import Engine, Window
from secondpass.tokens import Tokens

if TYPE_CHECKING:
    import torch

    from secondpass.forwards.workers import Workers
    from secondpass.keywords import Devices

logger = logging.getLogger(__name__)

# One model of torch is made at a time.
_BUILDING = threading.RLock()

CLOSED = "this CrossEncoder is closed: load the model again (in a subclass, by super().__init__)"


# ---- A loaded model to its stages: the tokenizer and the fastest forward, in the precision asked for.
SAMPLE_TOKENS, PROBE_TOKENS = 64, (11, 14)


def stored_engine(stored: StoredModel, precision: Precision | None) -> Engine | str:
    """The stages of a folder's model, or a sentence that says why torch has to compute it.

    Raises:
        InvalidInput: "int16" or "int8", where the kernel does not compute that.
    """
    engine = Engine(stored.tokenizer, _NotYet())
    types = "token_type_ids" in stored.tokenizer.model_input_names
    wanted: Precision = precision or "fp32"
    forward = stored_forward(
        stored.encoder, stored.identity, wanted, lambda: _samples(engine, stored.token_limit), types, stored.digest
    )
    if not isinstance(forward, str):
        engine.forward = forward
        return engine
    if wanted in WHOLE and not has_torch():
        raise InvalidInput(f"precision={wanted!r}: {forward}; choose 'auto' or 'fp32'")
    return forward


class _NotYet:
    """The place of a forward that is about to be chosen."""

    def ready(self) -> Computation:
        raise RuntimeError("there is no forward yet")


def torch_engine(loaded: Loaded, precision: Precision | None, known: Computation | None = None) -> Engine:
    """The stages of a model of torch; `known` computes it as it is now, where that is known."""
    from secondpass.forwards.module import ModelForward
    from secondpass.forwards.padded import TransformersForward

    names, padding = loaded.tokenizer.model_input_names, padding_of(loaded.tokenizer)
    engine = Engine(loaded.tokenizer, TransformersForward(loaded.model, names, padding))
    samples = _samples(engine, loaded.token_limit) if precision == "auto" else ()
    # our own families are known to mask what they must, and mostly computed without padding
    own = family_of(loaded.model) is not None
    probes = () if own and not padding.left else _probes(engine, loaded.token_limit)
    engine.forward = ModelForward(loaded.model, names, padding, precision, samples, probes, known)
    if not own:
        engine.forward.ready()
    return engine


def _samples(engine: Engine, limit: int) -> Sequence[Tokens]:
    """What "auto" judges by; nothing for a model that cannot read so much."""
    if limit <= SAMPLE_TOKENS:
        return ()
    return engine.tokens([SAMPLE_QUERIES, SAMPLE_DOCUMENTS], Window(SAMPLE_TOKENS, "longest_first", SAMPLE_TOKENS, 1))


def _probes(engine: Engine, limit: int) -> list[Any]:
    """Inputs of about a dozen tokens, and of 1 and 17 more or what a window of `limit` has room for.

    Of two lengths: models that pool neighbouring tokens hide at some what padding does to them.
    """
    from secondpass.forwards.padded import BatchProbe

    queries, documents = list(SAMPLE_QUERIES[::2]), [" ".join(SAMPLE_DOCUMENTS[row:]) for row in range(0, 12, 2)]

    def tokens(length: int, count: int = 1) -> list[Tokens]:
        window = Window(min(length, limit), "only_document", None, 1)
        return engine.tokens([queries[:count], documents[:count]], window)

    lengths = [min(length, max(limit - 17, limit // 2)) for length in PROBE_TOKENS]
    try:
        made = [
            BatchProbe(tuple(tokens(length, len(queries))), (*tokens(length + 1), *tokens(length + 17)))
            for length in lengths
        ]
    except InvalidInput:
        return []
    return [item for item in made if len({*map(len, item.pairs)}) == 1]


# ---- And the model around them.
class OpenModel:
    """A model and its stages until it is closed.

    `model`, `config` and `tokenizer` are transformers' own. Of a model that is computed without torch they are made
    when somebody asks for one of them, and from then on what is changed in them is noticed.

    Attributes:
        training_thread: the thread that trains the model now, which alone may score with it; None while none does.
    """

    _loaded: Loaded | StoredModel | None = None
    _engine: Engine | None = None

    def __init__(self, loaded: Loaded | StoredModel, precision: Precision | None) -> None:
        self._loaded = loaded
        self.training_thread: int | None = None
        self._calibration: Calibration | None = None
        stored = loaded.settings if isinstance(loaded, StoredModel) else loaded.config
        self._precision = recommended_precision(stored) if precision is None else checked_precision(precision)
        self._engine = self._made_engine()

    def _open(self) -> Loaded | StoredModel:
        if self._loaded is None:
            raise SecondPassError(CLOSED)
        return self._loaded

    @property
    def name(self) -> str:
        """What was loaded: a name of the hub or a folder."""
        return self._open().name

    @property
    def num_labels(self) -> int:
        """How many logits the head gives for a pair."""
        return self._open().num_labels

    @property
    def label_names(self) -> dict[int, str]:
        """What config.json calls the labels, by their number; as transformers does where it has no names."""
        loaded = self._open()
        stored = loaded.settings.get("id2label") if isinstance(loaded, StoredModel) else loaded.config.id2label
        named = {int(number): str(name) for number, name in (stored or {}).items()}
        return named if len(named) == loaded.num_labels else {n: f"LABEL_{n}" for n in range(loaded.num_labels)}

    def _made_engine(self) -> Engine:
        loaded = self._open()
        if isinstance(loaded, StoredModel):
            engine = stored_engine(loaded, self._precision)
            if not isinstance(engine, str):
                return engine
            loaded = self._loaded = loaded.build(engine)
        loaded.model.eval()
        return torch_engine(loaded, self._precision)

    def _built(self, reason: str) -> Loaded:
        """The model of torch, made now where nobody has asked for it before.

        Raises:
            SecondPassError: the model is closed.
            MissingExtra: torch is not installed; the message begins with the `reason` why it is needed.
        """
        with _BUILDING:
            loaded = self._open()
            if isinstance(loaded, Loaded):
                return loaded
            made = loaded.build(reason)
            made.model.eval()
            if (engine := self._engine) is not None and isinstance(engine.forward, StoredForward):
                engine.forward = torch_engine(made, self._precision, engine.forward.computation).forward
            if self._loaded is loaded:  # nobody closed it meanwhile
                self._loaded = made
            return made

    @property
    def model(self) -> Any:
        """The transformers model, None when this is closed; one that is put in its place is scored and saved with."""
        return None if self._loaded is None else self._built("model is an object of transformers").model

    @model.setter
    def model(self, model: Any) -> None:
        if not (hasattr(model, "eval") and hasattr(model, "config")):
            raise InvalidInput(f"model is {type(model).__name__}, not a model of transformers")
        made = self._built("model is an object of transformers").with_model(model)
        self.engine().forward = torch_engine(made, self._precision).forward
        self._loaded = made
        self.forget_calibration()

    @property
    def config(self) -> Any:
        """The transformers config."""
        return self._built("config is an object of transformers").config

    @config.setter
    def config(self, config: Any) -> None:
        self._loaded = replace(self._built("config is an object of transformers"), config=config)

    @property
    def tokenizer(self) -> Any:
        """The transformers tokenizer; what is changed in it is saved, and read when that is loaded again."""
        return self._built("tokenizer is an object of transformers").tokenizer

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self._loaded = replace(self._built("tokenizer is an object of transformers"), tokenizer=tokenizer)

    @property
    def tokenizer_changed(self) -> bool:
        """Whether that has other rules than those that it was loaded with, by which texts are still read."""
        return isinstance(self._loaded, Loaded) and self._loaded.tokenizer_changed

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: nobody trains the copy, and what computes a folder's model is made anew."""
        state = {**self.__dict__, "training_thread": None}
        if (engine := self._engine) is not None and isinstance(engine.forward, StoredForward):
            state["_engine"] = engine.tokenizer.cache, engine.workers
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._loaded is not None and not isinstance(self._engine, Engine):
            parts: Any = self._engine
            self._engine = self._made_engine()
            self._engine.tokenizer.cache, self._engine.workers = parts

    @property
    def device(self) -> torch.device:
        """Where the model is, for torch."""
        made: torch.device = optional("torch", "torch, which device is an object of,", "torch").device(self.device_name)
        return made

    @property
    def device_name(self) -> str:
        """Where the model is, as torch names it: "cpu", "cuda:0"."""
        loaded = self._open()
        return "cpu" if isinstance(loaded, StoredModel) else str(loaded.model.device)

    @property
    def precision(self) -> Precision:
        """What was asked for, else what the model's config.json recommends, else what suits the weights as they are."""
        loaded = self._open()
        own: Precision = "fp32" if isinstance(loaded, StoredModel) else precision_of(loaded.model.dtype)
        return self._precision or own

    @property
    def dtype(self) -> torch.dtype:
        """The type of the large matrix products now; int16 or int8 where the compiled kernel computes with that."""
        made: torch.dtype = getattr(optional("torch", "torch, which dtype is an object of,", "torch"), self.dtype_name)
        return made

    @property
    def dtype_name(self) -> str:
        """The same by its name: "float32", "bfloat16", "int16", "int8"."""
        return self.engine().ready().dtype

    @property
    def calibration(self) -> Calibration | None:
        """What makes probabilities of this model's logits."""
        return self._calibration

    def _copied(
        self,
        path: str | None,
        activation: Activation,
        max_length: int | None,
        settings: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> bool:
        """Save without torch: the files that the model was loaded from, with the calibration and the card of now.

        Args:
            path: as of `saving.save`.
            activation: the model's now.
            max_length: the window in force, where one was asked for.
            settings: what stands beside the weights, by the arguments of `saving.save`.
            options: other arguments of `save`, of which only those are copied that say nothing.

        Returns:
            False, and nothing is written, where anything is not what the files say.

        Raises:
            CheckpointError: the folder cannot be written, or the files were written to since they were opened.
        """
        stored, asked = self._open(), {**options, "safe_serialization": not options["safe_serialization"]}
        if not isinstance(stored, StoredModel) or stored.request.template is not None or any(asked.values()):
            return False
        published, trusts = published_activation(stored.template), stored.request.trust_remote_code
        own = default_activation(None, stored.stored_activation, stored.num_labels, trusts, published)
        now = activation, settings["prompts"], settings["default_prompt"], max_length or stored.token_limit
        dropout = stored.request.classifier_dropout in (None, stored.settings.get("classifier_dropout"))
        if now != (own, stored.prompts, stored.default_prompt, stored.token_limit) or not dropout:
            return False
        if path is None:
            return True
        folder, calibration = Path(path), settings["calibration"]
        try:
            with unfinished_folder(folder) as unfinished:
                stored.copy(unfinished)
                if calibration is not None:
                    put_calibration(unfinished, calibration)
                write_card(unfinished, folder, settings["card"], calibration)
                put_in_place(unfinished, folder)
        except OSError as error:
            raise CheckpointError(f"the model cannot be saved to {folder}: {' '.join(str(error).split())}") from error
        return True

    def forget_calibration(self) -> None:
        """Give no probabilities any more: the weights are no longer those that were calibrated."""
        if self._calibration is not None:
            logger.warning("%s gets other weights: its calibration is dropped", self.name)
        self._calibration = None

    def to(self, device: str | torch.device | int | None = None) -> Any:
        """Move the model, for None nowhere; returns the transformers model, as the seed does."""
        self._end_workers()
        model = self._built("moving a model").model
        return model if device is None else model.to(device)

    @property
    def workers(self) -> int:
        """How many batches are computed at a time."""
        workers = None if self._engine is None else self._engine.workers
        return 1 if workers is None else len(workers.devices)

    @property
    def devices(self) -> tuple[str, ...]:
        """Where batches are computed, as torch names them; several where there is a process for each."""
        workers = self.engine().workers
        return (self.device_name,) if workers is None else workers.devices

    def use_devices(self, devices: Devices | None) -> None:
        """Compute batches on several devices at a time, each in a process of its own; None or one ends that.

        Scores are those of one device. Of processors it is "cpu" as often as there shall be processes, which get equal
        parts of those that this one may use. With accelerators the model moves to the first, where this process
        computes. Calls share one queue; a process that ends is replaced, and its batch is done by another.

        Raises:
            InvalidInput: one is no device of this machine, or they are of several kinds.
            MissingExtra: other devices than the CPU need torch.
        """
        engine, wanted = self.engine(), devices_of(devices)
        if engine.workers is None or engine.workers.devices != wanted:
            self._end_workers()
            if wanted and wanted[0] != self.device_name:
                self.to(pick_device(wanted[0]))
            if len(wanted) > 1 and not isinstance(engine.forward, PortableForward):
                raise InvalidInput("device: a forward of your own is computed by this process alone")
            if len(wanted) > 1:
                # with what starts processes, 6 ms that a model on one device does not need
                from secondpass.forwards.workers import Workers

                engine.workers = Workers(wanted)
                engine.ready()  # they start meanwhile

    def start_multi_process_pool(self, target_devices: Devices | None = None) -> Workers:
        """`use_devices` as sentence-transformers has it; None takes every GPU, or a process for each core.

        Raises:
            InvalidInput: as `use_devices`, or it is one device.
        """
        looks = target_devices is None and has_torch()
        gpus = optional("torch", "a pool of GPUs", "torch").cuda.device_count() if looks else 0
        every = [f"cuda:{place}" for place in range(gpus)] if gpus > 1 else ["cpu"] * max(2, own_thread_count())
        self.use_devices(every if target_devices is None else target_devices)
        workers = self.engine().workers
        if workers is None:
            raise InvalidInput(f"target_devices={target_devices!r}: a pool has several devices")
        return workers

    def stop_multi_process_pool(self, pool: Workers) -> None:
        """End the processes of a pool; the model is computed by this process, on the first of the devices.

        Raises:
            InvalidInput: it is no pool.
        """
        from secondpass.forwards.workers import Workers

        if not isinstance(pool, Workers):
            raise InvalidInput(f"pool is {type(pool).__name__}, not what start_multi_process_pool gave")
        if (engine := self._engine) is not None and engine.workers is pool:
            self._end_workers()
        pool.close()

    def _end_workers(self) -> None:
        if (engine := self._engine) is not None and engine.workers is not None:
            ended, engine.workers = engine.workers, None
            ended.close()

    def use_forward(self, forward: Forward) -> None:
        """Put another forward behind the stages; it must give the logits of this model on the same inputs."""
        self.engine().forward = forward

    @property
    def padding(self) -> Padding:
        """What the model wants in the unused places of a batch."""
        return padding_of(self.tokenizer)

    def engine(self, scores: bool = False) -> Engine:
        """The stages, out of training mode for `scores`; asked again after a job, it tells if the model still stands.

        Raises:
            SecondPassError: the model is closed, or is being trained in another thread.
        """
        engine, loaded = self._engine, self._loaded
        if engine is None:
            raise SecondPassError(CLOSED)
        thread = self.training_thread
        if thread is not None and thread != threading.get_ident():
            raise SecondPassError("this CrossEncoder is being trained in another thread: score when fit has returned")
        if hasattr(engine.forward, "exact"):
            engine.forward.exact = thread is not None
        if scores and isinstance(loaded, Loaded):
            loaded.model.eval()
        return engine

    def close(self) -> None:
        """Let go of the weights; later calls raise `SecondPassError`."""
        self._end_workers()
        self._engine = self._loaded = None


@dataclass(slots=True)
class _Held:
    model: Any
    users: int = 0


class SharedModel:
    """Lends a model to concurrent calls.

    Threads that ask while it is being loaded wait for that one load. A load that fails leaves nothing behind, so the
    next call tries again. `close` waits for no call under way: the last one closes it. What is pickled has no model.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: _Held | None = None

    def __reduce__(self) -> tuple[type[SharedModel], tuple[()]]:
        # Locks and weights cannot or should not travel.
        return SharedModel, ()

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedModel:
        return self

    @contextmanager
    def lend(self, load: Callable[[], Any]) -> Iterator[Any]:
        """Give the model to the `with` block; `load` makes it if there is none."""
        with self._lock:
            held = self._held
            if held is None:
                held = self._held = _Held(load())
            held.users += 1
        try:
            yield held.model
        finally:
            with self._lock:
                held.users -= 1
                abandoned = held.users == 0 and held is not self._held
            if abandoned:
                held.model.close()

    def close(self) -> None:
        """Drop the model; without one, do nothing."""
        with self._lock:
            held, self._held = self._held, None
            held = None if held is not None and held.users else held
        if held is not None:
            held.model.close()
