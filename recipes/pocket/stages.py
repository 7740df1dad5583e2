"""The trainings that make the pocket model, one after the other, each in a folder of its own that survives a stop.

Every training is `secondpass.training.train` on a file of groups beside its folder: both are made once, and a folder
that holds a model is a finished training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes.pocket.answers import MIXES, Mix, round_drafts, with_targets
from recipes.pocket.build import Window, new_student, read_all, student_tokenizer
from recipes.pocket.corpora import Corpus
from recipes.pocket.finish import calibrate, write_folder, write_stage
from recipes.pocket.groups import training_groups
from recipes.pocket.lower_half import (
    JUDGED,
    JUDGED_SHARE,
    MASKED,
    MASKED_SHARE,
    VOTED,
    VOTED_SHARE,
    judged_groups,
    lower_half,
)
from recipes.pocket.queries import TrainingQuery, all_queries, part
from recipes.pocket.teachers import TEACHERS, Teacher
from secondpass import CrossEncoder
from secondpass.forwards.learning.packed import has_amx_bf16
from secondpass.forwards.precision import Precision
from secondpass.training import (
    Group,
    TrainingSettings,
    mean_weights,
    read_groups,
    train,
    with_changes,
    write_groups,
)

log = logging.getLogger(__name__)

POCKET = Path(__file__).parents[2] / "src" / "secondpass" / "pocket"
# Hardly ever reached: the time ends the schedule.
LAST_STEP = 20_000
SETTINGS = TrainingSettings(
    loss="labelled_distillation",
    tokens_per_step=8192,
    learning_rate=1e-4,
    warmup=0.04,
    weight_decay=0.01,
    beta2=0.98,
    save_every=200,
    log_every=50,
    seed=29,
)


def fast_precision() -> Precision:
    """bfloat16 where the processor has a matrix unit for it, else float32."""
    return "bf16" if has_amx_bf16() else "fp32"


@dataclass(frozen=True)
class Recipe:
    """Where everything is, and how much of it.

    Attributes:
        data: folder of BEIR collections.
        work: vectors, groups, checkpoints and runs; kept between calls.
        base: folder of the bi-encoder whose transformer the student starts from, and which is the first teacher.
        teachers: names of `TEACHERS`.
        share: of all queries, steps and minutes; below 1 for a trial.
        minutes: of the first training.
        output: gets the finished model.
    """

    data: Path
    work: Path
    base: Path
    teachers: tuple[str, ...] = tuple(spec.name for spec in TEACHERS)
    share: float = 1.0
    minutes: float = 55.0
    output: Path = POCKET

    @cached_property
    def texts(self) -> tuple[list[Corpus], list[str]]:
        return read_all(self.data)

    @property
    def corpora(self) -> list[Corpus]:
        return self.texts[0]

    @cached_property
    def queries(self) -> list[TrainingQuery]:
        return all_queries(self.data, *self.texts, share=self.share)

    @cached_property
    def window(self) -> Window:
        self.work.mkdir(parents=True, exist_ok=True)
        return Window(student_tokenizer(self.base, self.corpora, self.work / "tokenizer.json"))

    def settings(self, minutes: float, learning_rate: float = SETTINGS.learning_rate) -> TrainingSettings:
        return replace(SETTINGS, minutes=minutes, learning_rate=learning_rate, max_steps=part(LAST_STEP, self.share))


def make_all(recipe: Recipe) -> None:
    """Train, calibrate and write the finished model; what is finished is not done again."""
    first(recipe)
    second(recipe)
    third(recipe)
    finish(recipe)


def is_finished(folder: Path) -> bool:
    """Whether a training, or a stage between two, is over: its model is written last."""
    return (folder / "model.safetensors").is_file()


def trained(start: Path, groups: Callable[[], Iterable[Group]], settings: TrainingSettings, folder: Path) -> None:
    """Train the model in `start` on the groups, into `folder`; goes on where a stopped training was.

    The groups are made once: what a run goes on with must be the same to the last bit.
    """
    if is_finished(folder):
        log.info("%s is finished", folder.name)
        return
    file = folder.with_name(f"{folder.name}.jsonl")
    if not file.exists():
        write_groups(file, groups())
    log.info("%s: training", folder.name)
    encoder = CrossEncoder(str(start), device="cpu")
    train(encoder, read_groups(file), settings, output_dir=folder, watch=_told, show_progress_bar=False)


def _told(entry: Mapping[str, Any]) -> None:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in entry.items()}
    log.info("%s", " ".join(f"{key}={value}" for key, value in shown.items()))


def first(recipe: Recipe) -> None:
    """What a text is about: distillation from three bi-encoders and BM25."""
    folder, start = recipe.work / "first", recipe.work / "start"
    if is_finished(folder):
        return
    if not is_finished(start):
        window = recipe.window
        write_stage(new_student(recipe.base, window.tokenizer), recipe.work / "tokenizer.json", start)

    def groups() -> Iterator[Group]:
        teachers = [Teacher(spec, recipe.work, recipe.base) for spec in TEACHERS if spec.name in recipe.teachers]
        yield from training_groups(recipe.corpora, recipe.queries, teachers, recipe.window)

    trained(start, groups, recipe.settings(recipe.minutes * recipe.share), folder)


def second(recipe: Recipe) -> None:
    """Which sentence answers: three rounds, one from the other, whose weights are averaged."""
    if is_finished(recipe.work / "second"):
        return
    rounds = [recipe.work / f"round-{number}" for number in range(1, len(MIXES) + 1)]
    for start, mix, folder in zip((recipe.work / "first", *rounds), MIXES, rounds, strict=False):
        _round(recipe, start, mix, folder)
    _write(recipe, rounds[-1], mean_weights([_weights(folder) for folder in rounds]), "second")


def third(recipe: Recipe) -> None:
    """Changes of the lower half: those of three trainings from the second stage, added up."""
    if is_finished(recipe.work / "student"):
        return
    start = recipe.work / "second"
    trecqa = next(corpus for corpus in recipe.corpora if corpus.name == "trecqa")
    trained(start, partial(judged_groups, recipe.data, trecqa), JUDGED, recipe.work / "judged")
    _round(recipe, start, MASKED, recipe.work / "masked")
    _round(recipe, start, VOTED, recipe.work / "voted")
    shares = {"judged": JUDGED_SHARE, "masked": MASKED_SHARE, "voted": VOTED_SHARE}
    changes = [(_weights(recipe.work / name), share) for name, share in shares.items()]
    names = lower_half(_model(start))
    _write(recipe, start, with_changes(_weights(start), changes, names), "student")


def finish(recipe: Recipe) -> None:
    """Calibrate the trained student and write the model folder."""
    encoder = CrossEncoder(str(recipe.work / "student"), device="cpu", precision=fast_precision())
    calibrate(encoder, recipe.data)
    write_folder(encoder.model, recipe.work / "tokenizer.json", recipe.output)


def _round(recipe: Recipe, start: Path, mix: Mix, folder: Path) -> None:
    """A training on a mix, the opinion of the model in `start` being the target."""
    mix = mix.of(recipe.share)

    def groups() -> Iterator[Group]:
        drafts = round_drafts(recipe.data, recipe.corpora, recipe.queries, recipe.window, mix)
        yield from with_targets(CrossEncoder(str(start), device="cpu", precision=fast_precision()), drafts)

    trained(start, groups, recipe.settings(mix.minutes, mix.learning_rate), folder)


def _model(folder: Path) -> Any:
    return CrossEncoder(str(folder), device="cpu").model


def _weights(folder: Path) -> dict[str, Tensor]:
    return dict(_model(folder).state_dict())


def _write(recipe: Recipe, like: Path, weights: Mapping[str, Tensor], name: str) -> None:
    model = _model(like)
    model.load_state_dict(weights)
    write_stage(model, recipe.work / "tokenizer.json", recipe.work / name)
