"""Groups to better weights: the front door of the training module.

groups -> checked -> plan -> steps -> gradients -> weights
                             dev ranking, log, checkpoints on the way
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch

from secondpass.errors import CheckpointError, InvalidInput
from secondpass.forwards.learning.attention import DropoutSource
from secondpass.forwards.learning.dropout import cheap_dropout, dropout_set_to, give_back_memory, keep_freed_memory
from secondpass.forwards.learning.packed import TrainingForward, training_forward
from secondpass.forwards.precision import has_fast_bf16
from secondpass.models.modules import stored_weights
from secondpass.models.saving import check_storage
from secondpass.models.weights import COMPACT
from secondpass.text import choice
from secondpass.training.checkpoints.checkpoints import FOLDER, Checkpoints, forget_checkpoints
from secondpass.training.checkpoints.state import Generator, random_state, restore_random_state
from secondpass.training.data.checking import checked_groups, joined_by_query
from secondpass.training.data.groups import Counts, Group
from secondpass.training.losses import make_loss
from secondpass.training.losses.loss import Loss
from secondpass.training.losses.pointwise import BinaryCrossEntropy, StateDistillation
from secondpass.training.measuring.before_after import DevRanking
from secondpass.training.running.loop import Evaluation, Processes, Trainable, TrainingRun, claimed, joined
from secondpass.training.running.lora import WEIGHTS, Lora, load_trained, low_rank
from secondpass.training.running.plan import GroupLearner, Plan, Tokeniser, planned
from secondpass.training.running.run_watch import (
    FINISHED,
    RunLock,
    RunStorage,
    RunWatch,
    StepLog,
    identity_of,
    make_folder,
    read_finished,
    write_finished,
)
from secondpass.training.settings import TrainingSettings, worded
from secondpass.training.weights.layers import freeze, parameter_groups
from secondpass.training.weights.optimisation import (
    NO_SCORE,
    BestWeights,
    Optimisation,
    StretchedSchedule,
    WeightAverages,
    fingerprint_of_weights,
    make_schedule,
    trainable_weights,
)

logger = logging.getLogger(__name__)

Evaluator = Callable[..., Any]
Watch = Callable[[Mapping[str, Any]], object]
DEFAULTS = TrainingSettings()
# As BERT and RoBERTa were trained. At torch's 1e-8 weights whose gradient is zero but for rounding (the bias of keys)
# take whole steps, and two processes drift from one.
EPSILON = 1e-6
# Checkpoints of a run that keeps none when it is done: if the newest turns out damaged there is another.
KEPT_MEANWHILE = 2
# Where low-rank additions are saved when they are not merged.
ADAPTER = "adapter"
# Padded tokens of one forward with its gradients.
MICRO_TOKENS = {"cpu": 8192, "mps": 8192}
MICRO_TOKENS_ELSEWHERE = 32768


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """What a run did.

    Attributes:
        steps: changes of the weights.
        epochs: how often the groups were read, in part counts.
        best_score: the dev score of the weights that the model has now; None without a dev set.
        best_step: the step that gave them; 0 are the weights before training.
        scores: (step, dev score) in order; step 0 is before training.
        stopped_early: whether patience ended the run.
        resumed_from: the step of the checkpoint it went on from.
        seconds: of all parts of the run.
        pairs: (query, document) pairs read.
        tokens: real tokens read.
        counts: of the training groups.
        changed: whether the weights are others than before training.
    """

    steps: int
    epochs: float
    best_score: float | None
    best_step: int | None
    scores: tuple[tuple[int, float], ...]
    stopped_early: bool
    resumed_from: int | None
    seconds: float
    pairs: int
    tokens: int
    counts: Counts
    changed: bool = True

    @property
    def unchanged(self) -> str | None:
        """A sentence for a run that gave back the weights it began with."""
        if self.changed:
            return None
        why = "no step was better on dev than" if self.best_step == 0 else "after the last step they are still"
        return f"Training changed nothing: {why} the weights before it"

    def kept(self) -> dict[str, Any]:
        """What a finished run's folder keeps of it, as JSON."""
        names = (entry.name for entry in fields(self) if entry.name not in ("counts", "resumed_from"))
        return {name: getattr(self, name) for name in names}

    @classmethod
    def again(cls, kept: Mapping[str, Any], counts: Counts) -> TrainingReport:
        """The report of a run that was finished before."""
        scores = tuple((int(step), float(score)) for step, score in kept["scores"])
        return cls(**{**kept, "scores": scores}, resumed_from=kept["steps"], counts=counts)


def train(
    encoder: Trainable,
    groups: Iterable[Group],
    settings: TrainingSettings = DEFAULTS,
    *,
    dev: Iterable[Group] | Evaluator | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    storage: Literal["int8"] | None = None,
    loss: Loss | None = None,
    join: bool = False,
    resume: bool = True,
    watch: Watch | None = None,
    show_progress_bar: bool = True,
) -> TrainingReport:
    """Train `encoder` on groups, in place.

    Args:
        encoder: a `CrossEncoder`; afterwards it has the best weights by `dev`, else the last. Several processes
            begin with the same weights: where a head is new, seed torch before the model is made.
        groups: what to learn from; read once, and checked as a whole before the first step.
        settings: everything that decides the outcome.
        dev: held-out groups with whole grades (measured by nDCG@10), or an evaluator as `fit` takes it.
        output_dir: gets the model, `training.jsonl` and meanwhile `checkpoints/`; None keeps all in memory.
        storage: how the model is written, see `CrossEncoder.save`. With "int8" the encoder has the weights as they were
            stored afterwards.
        loss: an object instead of the name in `settings`.
        join: make one group of all that have the same query, in `dev` too: what single pairs need for a ranking loss.
        resume: go on from the newest checkpoint in `output_dir`, if there is one; False removes those that are there.
        watch: hears of every entry of the log.
        show_progress_bar: show a bar over all steps, with the loss and the time left.

    Raises:
        InvalidInput: a setting, groups that cannot be learnt from or measured by (the message names file and line), or
            processes that begin with different weights.
        TrainingError: a loss or gradient is not finite; the message names the groups. Checkpoints stay.
        CheckpointError: `output_dir` is in use, cannot be written, or has a checkpoint of another run.
    """
    encoder_labels = encoder.config.num_labels
    judge = make_loss(settings.loss, settings.loss_options) if loss is None else loss
    checked = checked_groups(groups, judge, num_labels=encoder_labels, join=join)
    if judge.labels != "class" and encoder_labels != 1 and getattr(judge, "reads_labels", True):
        raise InvalidInput(f"loss {settings.loss!r} needs a model with one label, this one has {encoder_labels}")
    if isinstance(judge, BinaryCrossEntropy) and judge.pos_weight == "balanced":
        counts = checked.counts
        judge = judge.balanced(counts.label_sum, counts.documents - counts.label_sum)
    evaluator = dev if dev is None or callable(dev) else DevRanking(joined_by_query(dev) if join else dev)
    if isinstance(evaluator, DevRanking) and evaluator is not dev and evaluator.note:
        logger.warning("dev: %s", evaluator.note)
    for line in checked.counts.lines():
        logger.info("%s", line)
    folder = None if output_dir is None else Path(output_dir)
    processes = joined(encoder.device)
    _check_storage(encoder.model, storage, settings)
    with ExitStack() as stack:
        if folder is not None and processes.first:
            make_folder(folder, "output_dir")
            stack.enter_context(RunLock(folder))
            if not resume:
                (folder / FINISHED).unlink(missing_ok=True)
                forget_checkpoints(folder)
        with claimed(encoder), ready_to_learn(encoder, settings, processes.rank) as ready:
            plan = planned(checked.groups, ready.tokenised, settings)
            if plan.cut and processes.first:
                logger.warning("%d of %d training pairs are cut to the window", plan.cut, len(plan.lengths.tokens))
            parts = _Parts(encoder, ready, plan, judge, loss, processes, evaluator, folder, storage)
            ended = parts.run(checked.counts, resume, watch, show_progress_bar and processes.first)
            if ready.adapter and ready.lora is not None and folder is not None and processes.first and not ended.before:
                ready.lora.save(folder / ADAPTER)
        if folder is not None:
            parts.leave(folder, ended)
    return ended.report


def _check_storage(model: Any, storage: Literal["int8"] | None, settings: TrainingSettings) -> None:
    if storage is None:
        return
    check_storage(model, choice(storage, ("int8",), "storage"))
    if settings.lora and not settings.lora.merge:
        raise InvalidInput(f"{worded('storage', storage)} is for whole models: lora.merge is false")


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that is over: what it reports, which run it is, and whether it was over before."""

    report: TrainingReport
    identity: Mapping[str, Any]
    before: bool


@dataclass(frozen=True, slots=True)
class _Parts:
    """Everything a run is put together from."""

    encoder: Trainable
    ready: Ready
    plan: Plan
    loss: Loss
    given: Loss | None
    processes: Processes
    evaluator: Evaluator | None
    folder: Path | None
    stored: Literal["int8"] | None

    def run(self, counts: Counts, resume: bool, watch: Watch | None, show: bool) -> _Ended:
        """Train to the end, from the newest checkpoint if there is one."""
        settings, model = self.plan.settings, self.encoder.model
        averages = WeightAverages(model, settings.averaging) if settings.averaging else None
        optimisation = self._optimisation()
        best = BestWeights(model, keeps=True, save=self._saver(), frozen=False)
        storage, identity = None, identity_of(self.plan, self.encoder, self.evaluator, self.given)
        if len(set(self.processes.gathered(identity["model"]))) > 1:
            alike = "a new head is the same in each where torch.manual_seed comes before the model is made"
            raise InvalidInput(f"encoder has other weights in other processes: {alike}")
        if self.folder is not None:
            checkpoints = Checkpoints(self.folder / FOLDER, settings.keep or KEPT_MEANWHILE, identity)
            storage = RunStorage(checkpoints, self.ready.generators)
        self.encoder.best_score = NO_SCORE
        evaluation = Evaluation(self._shared_evaluator(), settings.evaluate_every, None, None, True, twice=False)
        hooks = RunWatch(settings, self.plan, self.processes, StepLog(None, None, 0), averages, storage)
        run = TrainingRun(self.encoder, self._learner(optimisation), optimisation, evaluation, best, hooks)
        resumed = storage.restore(run, hooks) if storage is not None and resume else None
        if len(found := set(self.processes.gathered(resumed))) > 1:
            raise CheckpointError(f"output_dir {self.folder} is another folder for other processes: {found}")
        if self.folder is not None and resume and resumed is None:
            done = read_finished(self.folder, identity)
            if done is not None:
                self.encoder.best_score = NO_SCORE if done["best_score"] is None else done["best_score"]
                return _Ended(TrainingReport.again(done, counts), identity, before=True)
        hooks.log = StepLog(self.folder if self.processes.first else None, watch, -1 if resumed is None else resumed)
        if resumed is None:
            # the weights before the first step may prove to be the best
            run.evaluate(0)
        else:
            logger.info("going on from step %d of %d", resumed, self.plan.total)
        run.train(self.plan.steps, self.plan.epochs, show)
        if averages is not None and run.best.score is None:  # no evaluator, or none but NaN: no weights were kept
            averages.publish()
        if storage is not None and not hooks.finished:
            hooks.finished = True
            storage.save(run, hooks, (self.plan.epochs, 0))
        return _Ended(self._report(run, hooks, counts, resumed, identity["model"]), identity, before=False)

    def leave(self, folder: Path, ended: _Ended) -> None:
        """Leave the model in the folder, and nothing else where no checkpoints are to be kept."""
        adapter, meet = self.ready.adapter, self.processes.gathered
        if ended.before:
            load_trained(self.encoder.model, folder, ADAPTER if adapter else None)
            meet(None)
        compact = (folder / COMPACT).is_file()
        if self.processes.first and (not ended.before or compact < (self.stored is not None)):
            if not adapter:
                self._save(folder)
            if self.plan.settings.keep is None:
                weights = [folder / ADAPTER / WEIGHTS] if adapter else [*stored_weights(folder)]
                write_finished(folder, ended.identity, ended.report.kept(), weights)
        if self.processes.first and self.plan.settings.keep is None:
            forget_checkpoints(folder)
        meet(None)
        if self.stored is not None and not ended.before:
            load_trained(self.encoder.model, folder)

    def _save(self, folder: Path) -> None:
        self.encoder.save(str(folder), **({} if self.stored is None else {"storage": self.stored}))

    def _report(
        self, run: TrainingRun, hooks: RunWatch, counts: Counts, resumed: int | None, first: str
    ) -> TrainingReport:
        best_step = next((step for step, score in hooks.scores if score == run.best.score), None)
        report = TrainingReport(
            steps=run.total,
            epochs=hooks.epochs,
            best_score=run.best.score,
            best_step=best_step,
            scores=tuple(hooks.scores),
            stopped_early=hooks.exhausted,
            resumed_from=resumed,
            seconds=hooks.seconds,
            pairs=hooks.pairs,
            tokens=hooks.tokens,
            counts=counts,
            changed=best_step != 0 and fingerprint_of_weights(self.encoder.model) != first,
        )
        if self.processes.first:
            ended = {"seconds": round(report.seconds, 3), "best_score": report.best_score, "best_step": best_step}
            hooks.log.write("end", run.total, **ended)
        return report

    def _optimisation(self) -> Optimisation:
        settings, model = self.plan.settings, self.encoder.model
        groups = parameter_groups(
            model,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            layer_decay=settings.layer_decay,
        )
        fused = self.encoder.device.type != "mps"
        betas = (0.9, settings.beta2)
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=EPSILON, fused=fused)
        schedule: Any = None
        if settings.minutes is None:
            warmup = round(settings.warmup * self.plan.total)
            schedule = make_schedule(settings.schedule, optimizer, warmup, self.plan.total)
        else:
            schedule = StretchedSchedule(settings.schedule, optimizer, settings.warmup)
        return Optimisation(trainable_weights(model), optimizer, schedule, self.ready.scaler, settings.max_grad_norm)

    def _learner(self, optimisation: Optimisation) -> GroupLearner:
        settings, forward = self.plan.settings, self.ready.forward
        if isinstance(self.loss, StateDistillation):
            forward = self.loss.distances(self.encoder, forward)
        return GroupLearner(
            tokenised=self.ready.tokenised,
            forward=forward,
            loss=self.loss,
            optimisation=optimisation,
            processes=self.processes,
            autocast=self.ready.autocast,
            micro_tokens=settings.micro_batch_tokens or self.ready.micro_tokens,
            cached=settings.cached or bool(getattr(self.loss, "cached", False)),
            seed=settings.seed,
            random_state=self.ready.rewinding,
        )

    def _saver(self) -> Callable[[], object] | None:
        """Save the model whenever it is the best so far: whoever stops the run early has it."""
        if self.folder is None or not self.processes.first or self.plan.settings.lora is not None:
            return None
        folder = self.folder
        return lambda: self._save(folder)

    def _shared_evaluator(self) -> Evaluator | None:
        """Evaluate in the first process, and let the others know."""
        evaluator = self.evaluator
        if evaluator is None or self.processes.count == 1:
            return evaluator
        primary = getattr(evaluator, "primary_metric", None)

        def shared(encoder: Any, **when: Any) -> float:
            result = evaluator(encoder, **when) if self.processes.first else None
            if isinstance(result, Mapping):
                result = result.get(primary)
            return self.processes.from_first(result)  # type: ignore[no-any-return]

        return shared


@dataclass(frozen=True, slots=True)
class Ready:
    """A model ready to learn.

    Attributes:
        tokenised, forward, autocast, micro_tokens: as of `GroupLearner`; what suits the encoder and its device.
        scaler: of the loss, for float16.
        generators: random numbers beside torch's.
        lora: the low-rank additions, if that is what is trained.
        adapter: whether they are saved by themselves instead of the model.
    """

    tokenised: Tokeniser
    forward: TrainingForward
    autocast: Callable[[], AbstractContextManager[object]]
    scaler: torch.amp.GradScaler
    micro_tokens: int
    generators: Mapping[str, Generator]
    lora: Lora | None
    adapter: bool

    def rewinding(self) -> Callable[[], None]:
        """Remember where the random numbers are; the function that comes back puts them there again."""
        tensors, state = random_state(self.generators)
        return lambda: restore_random_state(tensors, state, self.generators)


@contextmanager
def ready_to_learn(encoder: Trainable, settings: TrainingSettings, rank: int) -> Iterator[Ready]:
    """Prepare `encoder` as the settings say; afterwards dropout and frozen layers are as before, additions merged."""
    device = encoder.device
    dtype = precision_for(settings, device)
    with ExitStack() as stack:
        stack.enter_context(seeded(settings.seed, device))
        stack.enter_context(dropout_set_to(encoder.model, dropout_for(settings, device)))
        stack.enter_context(recomputed_activations(encoder.model, settings.gradient_checkpointing))
        if settings.frozen_layers:
            stack.enter_context(freeze(encoder.model, settings.frozen_layers))
        lora = None if settings.lora is None else stack.enter_context(low_rank(encoder.model, settings.lora))
        if rank:  # additions are drawn alike in every process, what comes after them is not
            torch.manual_seed(settings.seed + rank)
        source = DropoutSource((settings.seed, rank))
        if device.type == "cpu":
            stack.enter_context(cheap_dropout(encoder.model, source))
            keep_freed_memory()
            stack.callback(give_back_memory)
        names = encoder.tokenizer.model_input_names
        yield Ready(
            tokenised=encoder.tokens,
            forward=training_forward(encoder.model, names, encoder.padding, source),
            autocast=autocast_for(dtype, device),
            scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
            micro_tokens=MICRO_TOKENS.get(device.type, MICRO_TOKENS_ELSEWHERE),
            generators={"dropout": source.generator},
            lora=lora,
            adapter=settings.lora is not None and not settings.lora.merge,
        )


def dropout_for(settings: TrainingSettings, device: torch.device) -> float | None:
    """The dropout to train with; None keeps the model's own."""
    if settings.dropout is None and device.type == "cpu":
        return 0.0
    return settings.dropout


@contextmanager
def recomputed_activations(model: Any, wanted: bool) -> Iterator[None]:
    """Let the model forget activations and compute them again for the gradient (Chen et al. 2016).

    Raises:
        InvalidInput: the model cannot.
    """
    if not wanted:
        yield
        return
    # transformers has renamed the methods; the old ones warn, and older versions lack the new ones
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    try:
        enable = getattr(model, f"{kind}_checkpointing_enable")
        enable(**{f"{kind}_checkpointing_kwargs": {"use_reentrant": False}})
    except (ValueError, AttributeError) as error:
        raise InvalidInput(f"gradient_checkpointing: {type(model).__name__} cannot: {error}") from error
    try:
        yield
    finally:
        getattr(model, f"{kind}_checkpointing_disable")()


def autocast_for(precision: torch.dtype, device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """Make contexts in which products are computed in `precision`."""
    if precision == torch.float32:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=precision)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch for a run, and give the caller's random numbers back afterwards."""
    devices = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def precision_for(settings: TrainingSettings, device: torch.device) -> torch.dtype:
    """The type that products are computed in.

    Raises:
        InvalidInput: float16 without CUDA: nothing else scales its loss.
    """
    wish = settings.precision
    if wish == "fp16" and device.type != "cuda":
        raise InvalidInput("precision='fp16' needs a CUDA device: take 'bf16'")
    if wish == "auto":
        suits = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and has_fast_bf16()
        return torch.bfloat16 if suits else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wish]
