"""A configuration to a trained model: data read and checked, measured, trained, measured again, card written."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from secondpass.cross_encoder import CrossEncoder
from secondpass.errors import CheckpointError, InvalidInput
from secondpass.evaluation.reporting.files import opened
from secondpass.models.loading import pick_device
from secondpass.training.configuration import MEASURES, HeldOutTest, PassagesConfig, TrainingConfig, TrainSource
from secondpass.training.data.checking import CheckedGroups, checked_groups, joined_by_query
from secondpass.training.data.groups import Group, fingerprint, label_origins
from secondpass.training.data.passages import best_passages
from secondpass.training.data.rows import Item
from secondpass.training.data.sources import GroupStream, each, read_groups
from secondpass.training.losses import make_loss
from secondpass.training.measuring import before_after
from secondpass.training.measuring.before_after import BeforeAfter
from secondpass.training.measuring.card import Card, write_card
from secondpass.training.running.loop import joined
from secondpass.training.running.plan import Plan, planned
from secondpass.training.running.run_watch import make_folder, tensorboard_log
from secondpass.training.settings import words_of
from secondpass.training.trainer import TrainingReport, Watch, seeded, train
from secondpass.training.yaml import as_yaml, is_written, without_folders

CONFIG = "train.yaml"
DEV = "dev"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything before the first step.

    Attributes:
        config: what was asked for.
        encoder: the model as it is before training.
        checked: what it learns from.
        dev: held-out queries that choose the best weights, if there are any.
        test: held-out queries measured at both ends, if there are any.
        notes: what a person should know about the data.
    """

    config: TrainingConfig
    encoder: CrossEncoder
    checked: CheckedGroups
    dev: BeforeAfter | None
    test: BeforeAfter | None
    notes: tuple[str, ...]

    @property
    def measured(self) -> list[BeforeAfter]:
        """What is measured before and after."""
        return [held for held in (self.dev, self.test) if held is not None]

    def plan(self) -> Plan:
        """All steps, without making one."""
        return planned(self.checked.groups, self.encoder.tokens, self.config.settings)


@dataclass(frozen=True, slots=True)
class Finished:
    """What came out: the report, the held-out sets with their runs, and the card's file."""

    report: TrainingReport
    measured: tuple[BeforeAfter, ...]
    card: Path | None


def prepare(config: TrainingConfig) -> Prepared:
    """Load the model, read all data and check it as a whole.

    Raises:
        InvalidInput: a file, row or setting is refused; the message names it.
        ModelLoadError: the model cannot be had.
        MissingExtra: a library is absent that the configuration needs.
    """
    with words_of("configuration"):
        return _prepared(config)


def _prepared(config: TrainingConfig) -> Prepared:
    settings, model = config.settings, config.model
    loss = make_loss(settings.loss, settings.loss_options)
    if Path(model.name).is_dir() and Path(model.name).resolve() == Path(config.output.folder).resolve():
        own = f"output.folder is the model's own, {model.name}"
        raise InvalidInput(f"{own}: a run that goes on needs the first weights")
    _refuse_own_file(Path(config.output.folder) / CONFIG)
    encoder = _encoder(config)
    read: Iterable[Group] = _read(config.data.train)
    dev = joined_by_query(_read(config.data.dev)) if config.data.dev else None
    if config.data.dev_share:
        read, share = _divided(list(each(read)), config.data.dev_share, settings.seed)
        dev = joined_by_query(share)
    checked = checked_groups(read, loss, num_labels=encoder.config.num_labels, join=config.data.join, tell=False)
    if config.data.passages is not None:
        checked = replace(checked, groups=tuple(_passages(checked.groups, config.data.passages, encoder)))
    measures = config.data.test.measures if config.data.test else MEASURES
    held = None if dev is None else before_after.of_groups(DEV, dev, measures)
    tested = None if config.data.test is None else _test(config.data.test)
    leaks = _leaks(checked.groups, [found for found in (held, tested) if found])
    notes = (*leaks, *(f"training {line}" for line in _origins(checked.groups)))
    return Prepared(config, encoder, checked, held, tested, notes)


def _divided(rows: Sequence[Item], share: float, seed: int) -> tuple[Iterable[Group], Sequence[Group]]:
    """Groups to learn from and to measure on; with a bad row none is held out: the check names whatever is bad."""
    groups = [row for row in rows if isinstance(row, Group)]
    if len(groups) < len(rows):
        return GroupStream(iter(rows), {}), ()
    kept, held = before_after.held_out(groups, share, seed)
    return kept, held


def _refuse_own_file(path: Path) -> None:
    """Refuse a folder whose configuration no run wrote: with the resolved one in its place, comments would be gone."""
    if path.is_file() and not is_written(path.read_text(encoding="utf-8", errors="replace")):
        raise InvalidInput(f"output.folder has a {path.name} that no run wrote, {path}: rename it, or take another")


def _encoder(config: TrainingConfig) -> CrossEncoder:
    """The model to train; a head that it lacks is drawn from the seed, the same in every process and every time."""
    model = config.model
    names = [entry.name for entry in fields(model) if entry.name != "name"]
    with seeded(config.settings.seed, pick_device(model.device)):
        return CrossEncoder(model.name, **{name: getattr(model, name) for name in names})


def run(
    prepared: Prepared,
    *,
    resume: bool = True,
    watch: Watch | None = None,
    show_progress_bar: bool = True,
    command: str | None = None,
) -> Finished:
    """Measure, train, measure again, and write the model, its configuration and its card into the output folder.

    The model of `prepared` is trained in place. `command` repeats the run, for the card (None: `secondpass train
    train.yaml`); the other arguments are as in `trainer.train`.

    Raises:
        MissingExtra: there are several processes, and accelerate is not installed.
        TrainingError: a loss or gradient is not finite.
        CheckpointError: the output folder is in use, cannot be written, or has another run's checkpoint.
    """
    config = prepared.config
    folder = Path(config.output.folder)
    # before the first one measures: what is amiss with another shows at once, and the rest wait as `joined` lets them
    first = joined(prepared.encoder.device).first
    watches = [watch] if watch is not None else []
    with ExitStack() as stack:
        stack.enter_context(words_of("configuration"))
        if first:
            make_folder(folder, "output.folder")
            if config.output.tensorboard:
                watches.append(stack.enter_context(tensorboard_log(folder / "tensorboard")))
            stack.enter_context(_kept(folder / CONFIG, as_yaml(config)))
            for held in prepared.measured:
                held.measure(prepared.encoder, before_after.BEFORE)
        report = train(
            prepared.encoder,
            prepared.checked.groups,
            config.settings,
            dev=None if prepared.dev is None else prepared.dev.ranking,
            output_dir=folder,
            storage=config.output.storage,
            resume=resume,
            watch=_told(watches),
            show_progress_bar=show_progress_bar,
        )
    if not first:
        return Finished(report, (), None)
    for held in prepared.measured:
        held.measure(prepared.encoder, before_after.AFTER)
    card = write_card(folder, _card(prepared, report, command)) if config.output.card else None
    return Finished(report, tuple(prepared.measured), card)


@contextmanager
def _kept(path: Path, text: str) -> Iterator[None]:
    """Write the configuration before the run; one that turns out to be of another run in this folder comes back."""
    before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
    with opened(path) as stream:
        stream.write(text)
    try:
        yield
    except CheckpointError:
        if before is not None:
            with opened(path) as stream:
                stream.write(before)
        raise


def _test(test: HeldOutTest) -> BeforeAfter:
    run = None if test.run is None else Path(test.run)
    return before_after.of_folder(
        Path(test.path), test.split, measures=test.measures, run=run, depth=test.depth, limit=test.limit
    )


def _read(sources: Iterable[TrainSource]) -> GroupStream:
    """Groups of all sources, one after the other; like each of them, it goes on behind a bad row."""
    return GroupStream(chain.from_iterable(islice(_items(source), source.limit) for source in sources), {})


def _items(source: TrainSource) -> Iterator[Item]:
    names = [entry.name for entry in fields(source) if entry.name not in ("path", "limit")]
    return each(read_groups(source.path, **{name: getattr(source, name) for name in names}))


def _passages(groups: Sequence[Group], passages: PassagesConfig, trained: CrossEncoder) -> Iterator[Group]:
    chooser = trained if passages.model is None else CrossEncoder(passages.model, device=trained.device_name)
    return best_passages(groups, chooser, passages.windows, progress=sys.stderr.isatty())


def _leaks(train_groups: Sequence[Group], held: Iterable[BeforeAfter]) -> Iterator[str]:
    for one in held:
        if one.note:
            yield f"{one.name}: {one.note}"
        both = before_after.queries_in_both(train_groups, one.queries)
        if both:
            yield f"{both} of {len(one.queries)} {one.name} queries are learnt from too: its figures promise too much"


def _told(watches: Sequence[Watch]) -> Watch | None:
    if not watches:
        return None

    def tell(entry: Mapping[str, Any]) -> None:
        for watch in watches:
            watch(entry)

    return tell


def _card(prepared: Prepared, report: TrainingReport, command: str | None) -> Card:
    config = prepared.config
    return Card(
        name=Path(config.output.folder).name,
        base_model=config.model.name,
        revision=config.model.revision,
        num_labels=int(prepared.encoder.config.num_labels),
        settings=config.settings,
        sources=(*map(_named, config.data.train), *_origins(prepared.checked.groups)),
        counts=report.counts.lines(),
        fingerprint=fingerprint(prepared.checked.groups),
        report=report,
        measured=tuple(prepared.measured),
        notes=prepared.notes,
        command=command or f"secondpass train {CONFIG}",
        configuration=as_yaml(without_folders(config)),
    )


def _origins(groups: Sequence[Group]) -> Iterator[str]:
    """What the card says of labels that are not people's."""
    if origin := label_origins(groups):
        yield f"labels: {origin}"


def _named(source: TrainSource) -> str:
    """Name and part of a source, without the folders above it: they are this machine's."""
    path = Path(source.path)
    limited = "" if source.limit is None else f", first {source.limit:,} groups"
    return f"{path.name} ({source.split}{limited})" if path.is_dir() else f"{path.name}{limited}"
