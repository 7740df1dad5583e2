"""A name or folder to a complete, checked model: config, weights, tokenizer, stored activation, input limit.

Refuses whatever could run foreign code or score at random: pickles, remote code, a missing head, a tokenizer
of another model.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secondpass.calibration import Calibration
from secondpass.errors import InvalidInput, MissingExtra, ModelLoadError
from secondpass.inputs import ModelTemplate, PromptTemplate
from secondpass.lazy import lacking_torch, needs_torch
from secondpass.models.config import (
    TRANSFORMER_FILE,
    Task,
    architecture_in,
    load_config,
    read_activation,
    read_if_present,
    read_processing,
    read_prompts,
    stored_template,
)
from secondpass.models.folders import folder_of
from secondpass.models.limits import check_vocabulary, token_limit
from secondpass.models.modules import Modules, read_modules, stored_limit, stored_weights
from secondpass.models.templates import template_for
from secondpass.models.tokenizer import ends_with_padding, load_tokenizer
from secondpass.models.weights import COMPACT, check_counts, is_compact, stored_sizes

if TYPE_CHECKING:
    import torch

    from secondpass.forwards.readout import ModuleChain, ReadoutModel, VocabularyRows

logger = logging.getLogger(__name__)

# ---- Keep transformers from printing while we load or save, and leave its settings to others as they were.
#
# Loading changes torch's default dtype and device for a moment, and the progress-bar switch is global: one at a time.
_ONE_AT_A_TIME = threading.RLock()


class _WithoutReports(logging.Filter):
    """Drops the load report of one thread: its content becomes our errors and warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or "LOAD REPORT" not in str(record.msg)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Run a block without transformers' progress bars and load report; blocks of other threads wait."""
    reports, filtered = logging.getLogger("transformers.modeling_utils"), _WithoutReports()
    with _ONE_AT_A_TIME, _without_bars():
        reports.addFilter(filtered)
        try:
            yield
        finally:
            reports.removeFilter(filtered)


@contextmanager
def _without_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as switches

    if not switches.is_progress_bar_enabled():
        yield
        return
    downloads_without = are_progress_bars_disabled()
    switches.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        switches.enable_progress_bar()  # type: ignore[no-untyped-call]
        # transformers' switch flips the hub client's too.
        if downloads_without:
            disable_progress_bars()


# ---- What is loaded, and how.
#
# Arguments that have a parameter of their own, and those that would open other files or run other code.
OWN_PARAMETER = ("cache_dir", "local_files_only", "num_labels", "revision", "trust_remote_code")
REFUSED = ("adapter_kwargs", "code_revision", "config", "gguf_file", "state_dict", "subfolder", "transformers_weights")
NATIVE_CODE = ("allow_all_kernels", "kernel_config", "use_kernels")


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What to load and how; the fields are `CrossEncoder`'s arguments of the same names."""

    source: str | os.PathLike[str]
    num_labels: int | None = None
    automodel_args: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_args: Mapping[str, Any] = field(default_factory=dict)
    config_args: Mapping[str, Any] = field(default_factory=dict)
    cache_dir: str | os.PathLike[str] | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    local_files_only: bool = False
    token: str | bool | None = field(default=None, repr=False)
    classifier_dropout: float | None = None
    template: str | PromptTemplate | ModelTemplate | None = None
    true_token: str | None = None
    false_token: str | None = None
    device: str | torch.device | None = "cpu"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to score.

    `config` is `model.config`; `stored_activation` a dotted name that nobody has trusted yet; `token_limit` the
    longest input in tokens; `prompts` are stored by name, `default_prompt` is the name of the one that a call gets that
    names none; `template` is what the model was trained to read around its texts; `transformer_settings` is what the
    folder says of the first of its modules, with the template among it or not; `calibration` is that of the folder,
    with a digest of weights only if it is theirs; `rules` are those of the tokenizer as it was loaded (`rules_of`).
    """

    config: Any = field(repr=False)
    model: Any = field(repr=False)
    tokenizer: Any = field(repr=False)
    stored_activation: str | None
    token_limit: int
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    template: ModelTemplate | None = None
    transformer_settings: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    rules: bytes = field(default=b"", repr=False)

    @property
    def limit_now(self) -> int:
        """`token_limit`, or the tokenizer's `model_max_length` where that has been set to less, as `save` stores it."""
        return int(min(self.token_limit, getattr(self.tokenizer, "model_max_length", None) or self.token_limit))

    @property
    def num_labels(self) -> int:
        """How many logits a pair gets."""
        return int(self.config.num_labels)

    @property
    def name(self) -> str:
        """What was asked for."""
        return str(self.config.name_or_path)

    def with_model(self, model: Any) -> Loaded:
        """The same with another model, under a folder's own limit; ModelLoadError where the tokenizer has more ids."""
        check_vocabulary(Path("model"), self.tokenizer, model)
        before, limit = token_limit(self.tokenizer, self.model), token_limit(self.tokenizer, model)
        limit = min(limit, self.token_limit) if self.token_limit < before else limit
        return replace(self, model=model.eval(), config=model.config, token_limit=limit)

    @property
    def tokenizer_changed(self) -> bool:
        """Whether the tokenizer has other rules than those that it was loaded with."""
        return self.rules != rules_of(self.tokenizer)

    @property
    def leaves_prompt_out(self) -> bool:
        """Whether the tokens of a prompt should not be pooled, of which none are told here."""
        return bool(getattr(getattr(self.model, "readout", None), "leaves_prompt_out", False))


def rules_of(tokenizer: Any) -> bytes:
    """A digest of what makes ids of texts: all but lengths and padding, which every call of transformers sets."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # the two stand in front
    rules = "" if backend is None else backend.to_str().partition('"added_tokens"')[2]
    return hashlib.sha256(f"{getattr(tokenizer, 'truncation_side', None)} {rules}".encode()).digest()


def folder_for(request: LoadRequest) -> Path:
    """Where the model asked for is on this machine, when the arguments are checked; raises as `load`."""
    check_arguments(request)
    return folder_of(
        request.source,
        variant=request.automodel_args.get("variant"),
        code=request.trust_remote_code,
        cache_dir=request.cache_dir,
        revision=request.revision,
        local_files_only=request.local_files_only,
        token=_token(request),
    )


def load(request: LoadRequest, folder: Path | None = None) -> Loaded:
    """Load a model of torch.

    Args:
        request: what, and how.
        folder: where it is; None finds it.

    Raises:
        InvalidInput: an argument is refused; the message names it.
        ModelLoadError: the model cannot be had, is broken or incomplete, or would run foreign code.
    """
    folder = folder_for(request) if folder is None else folder
    automodel_args = _without(request.automodel_args, "token", "use_safetensors", "weights_only")
    modules = read_modules(folder, request.num_labels is not None)
    task = task_of(folder, modules, request)
    with quiet_transformers():
        check_counts(folder / "config.json", stored_sizes(stored_weights(folder, automodel_args.get("variant"))))
        config = load_config(
            folder,
            request.num_labels,
            request.classifier_dropout,
            _without(request.config_args, "token"),
            request.trust_remote_code,
            task,
        )
        model = _model(folder, config, automodel_args, request, task)
        tokenizer = load_tokenizer(folder, model, _without(request.tokenizer_args, "token"), request.trust_remote_code)
    check_vocabulary(folder, tokenizer, model)
    template, true_id, false_id = template_for(
        folder,
        str(request.source),
        "" if modules is None and request.num_labels is not None else architecture_in(folder),
        tokenizer,
        request.template,
        request.true_token,
        request.false_token,
    )
    if task != "sequence-classification":
        model = _with_readout(folder, model, modules, (true_id, false_id), request)
    elif request.true_token is not None:
        raise InvalidInput(f"true_token={request.true_token!r}: the model has a classification head")
    if request.automodel_args.get("device_map") is None:
        model.to(pick_device(request.device))
    return _loaded(folder, model, tokenizer, template, request, modules)


def task_of(folder: Path, modules: Modules | None, request: LoadRequest) -> Task:
    """What transformers is to make of a folder."""
    if modules is not None:
        if request.classifier_dropout is not None:
            raise InvalidInput("classifier_dropout is for classification heads: a chain has its own modules")
        return modules.task
    causal = architecture_in(folder).endswith("ForCausalLM") and request.num_labels is None
    return "text-generation" if causal else "sequence-classification"


def _with_readout(
    folder: Path, body: Any, modules: Modules | None, answer: tuple[int | None, int | None], request: LoadRequest
) -> ReadoutModel:
    """A body under what its folder, its family or the caller says makes the score."""
    from secondpass.forwards.readout import ModuleChain, ReadoutModel
    from secondpass.models.chains import make_readout, vocabulary_rows

    true_id, false_id = answer
    readout: ModuleChain | VocabularyRows
    if modules is not None and (modules.task == "feature-extraction" or request.true_token is None):
        readout = make_readout(modules, body, request.trust_remote_code)
    elif true_id is not None:
        readout = vocabulary_rows(folder, body, true_id, false_id)
    else:
        raise ModelLoadError(f"{folder}: the token whose logit is the score is not known; true_token= says it")
    if request.true_token is not None and isinstance(readout, ModuleChain):
        raise InvalidInput(f"true_token={request.true_token!r}: the model's modules make the score, and read no token")
    if request.num_labels not in (None, readout.labels):
        raise InvalidInput(f"num_labels={request.num_labels}: the modules of {folder} give {readout.labels}")
    return ReadoutModel(body, readout).eval()


def _loaded(
    folder: Path,
    model: Any,
    tokenizer: Any,
    template: ModelTemplate | None,
    request: LoadRequest,
    modules: Modules | None,
) -> Loaded:
    model.config.name_or_path = str(request.source)
    if getattr(model.config, "pad_token_id", None) is None and not ends_with_padding(tokenizer):
        # Decoders score at the last token that is no padding, and refuse batches without this.
        model.config.pad_token_id = tokenizer.pad_token_id
    limit = token_limit(tokenizer, model)
    return Loaded(
        config=model.config,
        model=model,
        tokenizer=tokenizer,
        token_limit=min(limit, stored_limit(folder, modules) or limit),
        template=template,
        rules=rules_of(tokenizer),
        **saved_beside(folder, request),
    )


def saved_beside(folder: Path, request: LoadRequest) -> dict[str, Any]:
    """What a folder keeps beside model and tokenizer, by the fields of `Loaded`."""
    prompts, default_prompt = read_prompts(folder)
    settings = read_if_present(folder / TRANSFORMER_FILE)
    modalities = settings["modality_config"] if isinstance(settings.get("modality_config"), dict) else {}
    is_theirs = request.template is None and stored_template(folder) is None
    # the longest input is saved as the tokenizer's, where every reader looks, and said once
    processing = read_processing(folder / TRANSFORMER_FILE)
    for own in processing.values():
        own.pop("max_length", None)
    settings = {key: value for key, value in settings.items() if key not in ("max_seq_length", "processing_kwargs")}
    settings |= {"processing_kwargs": processing} if processing else {}
    return {
        "stored_activation": read_activation(folder),
        "prompts": prompts,
        "default_prompt": default_prompt,
        # what else the folder says of the template is written again from the template itself
        "transformer_settings": settings if is_theirs and "message" in modalities else {},
    }


def _model(folder: Path, config: Any, automodel_args: dict[str, Any], request: LoadRequest, task: Task) -> Any:
    import torch

    from secondpass.models.building import build_model, load_compact

    # float32 unless asked otherwise, as the seed: half precision on a CPU is slow, and overflows.
    dtype = automodel_args.pop("torch_dtype", None) or automodel_args.pop("dtype", None) or torch.float32
    if not is_compact(folder):
        return build_model(folder, config, {**automodel_args, "dtype": dtype}, request.num_labels is not None, task)
    if task == "text-generation":
        raise ModelLoadError(f"{folder}: compact weights ({COMPACT}) are for encoders")
    if automodel_args:
        raise InvalidInput(f"automodel_args {sorted(automodel_args)} cannot be used with a compact model ({COMPACT})")
    return load_compact(folder, config, task).to(_dtype(dtype))


def _dtype(given: object) -> torch.dtype:
    """A dtype or its name; "auto" is what compact weights expand to."""
    import torch

    named = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
    if given == "auto":
        return torch.float32
    if not isinstance(named, torch.dtype):
        raise InvalidInput(f"automodel_args: dtype={given!r} is no torch dtype")
    return named


def check_arguments(request: LoadRequest) -> None:
    """Refuse arguments that reach pickles, foreign code or other files by a side door."""
    labels = request.num_labels
    if labels is not None and (not isinstance(labels, int) or isinstance(labels, bool) or labels < 1):
        raise InvalidInput(f"num_labels={labels!r} is not a positive int")
    share = request.classifier_dropout
    if share is not None and not (isinstance(share, (int, float)) and 0 <= share <= 1):
        raise InvalidInput(f"classifier_dropout={share!r} is no share from 0 to 1")
    for name in ("automodel_args", "tokenizer_args", "config_args"):
        given: object = getattr(request, name)
        if not isinstance(given, Mapping):
            raise InvalidInput(f"{name} is {type(given).__name__}, not a dict")
        _check_keys(name, given)
        if not request.trust_remote_code:
            _check_native(name, given)
    for key in ("use_safetensors", "weights_only"):
        if request.automodel_args.get(key, True) is not True:
            raise InvalidInput(f"automodel_args[{key!r}] must stay True: only safetensors are read")


def _check_keys(name: str, given: Mapping[str, Any]) -> None:
    for key in given:
        if key in OWN_PARAMETER:
            raise InvalidInput(f"{name}[{key!r}]: give {key}= itself")
        if key in REFUSED:
            raise InvalidInput(f"{name}[{key!r}] is not supported")


def _check_native(name: str, given: Mapping[str, Any]) -> None:
    native = [f"{name}[{key!r}]" for key in NATIVE_CODE if given.get(key)]
    attention = given.get("attn_implementation")
    if attention is not None and "/" in str(attention):
        native.append(f"{name}['attn_implementation']={attention!r}")
    if native:
        raise InvalidInput(f"{native[0]} runs code from the model hub; that needs trust_remote_code=True")


def _without(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in names}


def _token(request: LoadRequest) -> str | bool | None:
    """Find the token: the seed has no such argument, so its users put it into the dicts."""
    for given in (request.automodel_args, request.config_args, request.tokenizer_args):
        if request.token is None and "token" in given:
            token: str | bool | None = given["token"]
            return token
    return request.token


def is_cpu(device: str) -> bool:
    """Whether torch computes on the processor for this name: of "cpu" and "cpu:1" there is one."""
    return re.fullmatch(r"cpu(:(0|[1-9]\d*))?", device) is not None


def devices_of(given: object) -> tuple[str, ...]:
    """The devices that an argument names, as torch does: none for None, one, or of one kind several.

    A whole number is that of a GPU. Several are a list, or a str with commas between them; of processors it is "cpu" as
    often as there shall be processes.

    Raises:
        InvalidInput: one is no str or device; of several, one is not available, or kinds are mixed.
    """
    if given is None:
        return ()
    several = given.split(",") if isinstance(given, str) else given
    names = list(several) if isinstance(several, (list, tuple)) else [several]
    names = [f"cuda:{name}" if isinstance(name, int) and not isinstance(name, bool) else name for name in names]
    for place, name in enumerate(names):
        if not isinstance(name, str) and type(name).__name__ != "device":
            what = f"device[{place}]" if isinstance(several, (list, tuple)) else "device"
            raise InvalidInput(f"{what} is {type(name).__name__}, not str or torch.device")
    made = tuple("cpu" if is_cpu(str(name).strip()) else str(name).strip() for name in names)
    kinds = {name.partition(":")[0]: None for name in made}
    if not made or len(kinds) > 1:
        raise InvalidInput(f"device: {' and '.join(kinds) or 'no'} devices, where several have to be of one kind")
    for name in made if len(made) > 1 and made[0] != "cpu" else ():
        pick_device(name)
    return made


def pick_device(requested: str | torch.device | None) -> torch.device:
    """Return the device asked for, or for None the best present: cuda, mps, npu, hpu, cpu, as the seed picks.

    "cuda" without a number is `own_gpu` of this process.

    Raises:
        InvalidInput: the name is no device, or names one that this machine lacks.
        MissingExtra: torch or transformers is not installed, or too old.
    """
    if lacking_torch() is not None:
        raise MissingExtra(f"device={requested!r} {needs_torch()}")
    import torch

    if requested is not None and not isinstance(requested, (str, torch.device)):
        raise InvalidInput(f"device is {type(requested).__name__}, not str or torch.device")
    try:
        device: torch.device = torch.device(_best() if requested is None else requested)
    except RuntimeError as error:
        raise InvalidInput(f"device={requested!r} is no device; say 'cpu', 'cuda', 'cuda:1' or 'mps'") from error
    if not _present(device):
        raise InvalidInput(f"device={str(requested)!r} is not available on this machine")
    if device.type == "cuda":
        device = torch.device(own_gpu(str(device), os.environ, torch.cuda.device_count()))
    if requested is None:
        logger.info("Use pytorch device: %s", device)
    return device


def own_gpu(name: str, environment: Mapping[str, str], present: int) -> str:
    """Which GPU "cuda" is for one of several processes that a launcher started: accelerate gives each the same one.

    `environment` has the launcher's WORLD_SIZE and LOCAL_RANK; `present` GPUs, at least one, are seen by this process:
    where each sees only its own, that is number 0 to all of them. Any other `name` is given back.
    """
    rank = environment.get("LOCAL_RANK")
    if name != "cuda" or rank is None or int(environment.get("WORLD_SIZE", "1")) <= 1:
        return name
    return f"cuda:{int(rank) % present}"


def _best() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    # Both live in plug-ins of torch that transformers knows how to find.
    from transformers.utils.import_utils import is_torch_hpu_available, is_torch_npu_available

    if is_torch_npu_available():
        return "npu"
    return "hpu" if is_torch_hpu_available() else "cpu"


def _present(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        # A wrong index would fail as late as the first batch, as an assertion on the device.
        return (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return True
