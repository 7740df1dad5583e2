"""The stages that make both models, one after the other, each in a file or folder of its own that survives a stop.

Every training is `secondpass.training.train` on a file of groups: both are made once, and a folder that holds a model
is a finished training. So one folder is for one recipe, which is written down before the first stage. What each stage
was given and what came out is a line of the log, which is published with the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from recipes.pocket import evaluate as judged
from recipes.pocket.build import VOCABULARY, Window, new_model, student_tokenizer
from recipes.pocket.corpora import Corpus, digest_of
from recipes.pocket.evaluate import Exam, Values
from recipes.pocket.finish import (
    LAYER_BITS,
    WORD_BITS,
    Temperature,
    calibrate,
    hold_words,
    round_words,
    temperature,
    write_folder,
    write_stage,
)
from recipes.pocket.groups import DOCUMENTS, TEACHER_WEIGHTS, found_groups, opinions, sentence_groups, training_groups
from recipes.pocket.queries import TrainingQuery, all_queries, part, read_pool
from recipes.pocket.teachers import TEACHERS, Teacher, teacher_folder
from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.training import (
    Group,
    StateDistillation,
    TrainingSettings,
    drop_layers,
    narrow_layers,
    read_groups,
    taught,
    train,
    trim_vocabulary,
    write_groups,
)
from secondpass.training.distillation.teachers import EncoderTeacher
from secondpass.training.losses.loss import Loss

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[2] / "src" / "secondpass"
LOG = Path(__file__).with_name("log.jsonl")
# The student starts from this teacher, which has six layers.
BASE = "minilm"
# pocket-mini: pocket's first layer and its last, most of the units of their blocks, fewer words, 6.1 MB in all. With
# half of the units it is further from pocket's states after as many steps, three layers of half are no nearer; other
# pairs of layers begin further away. Not published: its development mean is .600 where pocket has .672 and BM25 .542,
# and it is 2.3 times as fast (AVX2, int16), when it was to keep three quarters of what pocket gains at three times.
# What holds it back is neither words (all six layers have lost nothing on two forums with 15,800) nor steps: four
# collections have .707 after 480 steps with half of the units, .711 after 1,700, and .704 after learning scores.
MINI_LAYERS, MINI_UNITS = (0, 5), 1280
MINI_VOCABULARY = 13_500
# Drawn of all of them: more than the steps take.
QUERIES, MINI_QUERIES, MINI_GROUPS = 5_000, 40_000, 2_000
# What the student's start says counts so much among its teachers. It compares tokens, which they do not, and is better
# than they are on some collections: their sum with it has a development mean .01 higher than without, while 400 steps
# of learning from them alone left it .01 lower than it began.
START_WEIGHT = 0.5
# So long as a machine takes for them: steps, not minutes, so that what else it does meanwhile changes nothing.
STEPS, STATE_STEPS, MINI_STEPS = 400, 1_700, 600
# What it starts with knows much already, which longer steps and smaller batches would wear away.
SETTINGS = TrainingSettings(
    loss="labelled_distillation",
    tokens_per_step=8192,
    learning_rate=1.5e-5,
    warmup=0.1,
    weight_decay=0.0,
    averaging=0.99,
    beta2=0.98,
    save_every=100,
    log_every=50,
)
# pocket-mini has lost most of its layers and learns anew: pocket's states of all kinds of texts, of groups of a query
# and as many as this, and then its scores.
STATE_DOCUMENTS = 2
STATE_SETTINGS: dict[str, Any] = {"learning_rate": 6e-4, "tokens_per_step": 4096, "weight_decay": 0.01}
MINI_SETTINGS: dict[str, Any] = {**STATE_SETTINGS, "learning_rate": 2e-4}


@dataclass(frozen=True)
class Recipe:
    """Where everything is, and how much of it.

    Attributes:
        data: folder of BEIR collections.
        work: vectors, groups, checkpoints and scores; kept between calls.
        seed: of queries, groups and trainings.
        share: of all queries and steps; below 1 for a trial.
        output: gets the finished models, in "pocket" and "pocket_mini", and its log.
    """

    data: Path
    work: Path
    seed: int = 17
    share: float = 1.0
    output: Path = PACKAGE
    log: Path = LOG

    @cached_property
    def pool(self) -> Corpus:
        """What is trained on."""
        return read_pool(self.data)

    @cached_property
    def queries(self) -> list[TrainingQuery]:
        """Of every kind."""
        return all_queries(self.data, self.pool, self.seed, part(QUERIES, self.share))

    @cached_property
    def mini_queries(self) -> list[TrainingQuery]:
        """Of which pocket-mini reads."""
        return all_queries(self.data, self.pool, self.seed, part(MINI_QUERIES, self.share))

    @property
    def texts(self) -> list[str]:
        """What decides which words a vocabulary keeps."""
        return [*self.pool.texts, *(query.text for query in self.queries)]

    @cached_property
    def teachers(self) -> list[Teacher]:
        """Those that are listened to."""
        return [Teacher(spec, self.work) for spec in TEACHERS if spec.name in TEACHER_WEIGHTS]

    @cached_property
    def exams(self) -> tuple[Exam, ...]:
        """What decides."""
        return judged.development(self.data, part(judged.DEVELOPMENT_QUERIES, self.share))

    def settings(self, steps: int) -> TrainingSettings:
        """Of a training of so many steps."""
        return replace(SETTINGS, max_steps=part(steps, self.share), seed=self.seed)

    def identity(self) -> dict[str, Any]:
        """What makes the stages of another recipe other ones, as JSON has it."""
        usual = asdict(TrainingSettings())
        identity = {
            "seed": self.seed,
            "share": self.share,
            "pool": self.pool.digest(),
            "queries": digest_of(query.shown for query in self.queries),
            "base": BASE,
            "teachers": dict(TEACHER_WEIGHTS),
            "vocabularies": [VOCABULARY, MINI_VOCABULARY],
            "bits": [WORD_BITS, LAYER_BITS],
            "steps": [STEPS, STATE_STEPS, MINI_STEPS],
            "start_weight": START_WEIGHT,
            "mini": [MINI_LAYERS, MINI_UNITS, MINI_QUERIES, STATE_DOCUMENTS, STATE_SETTINGS, MINI_SETTINGS],
            **{name: value for name, value in asdict(SETTINGS).items() if value != usual[name]},
        }
        made: dict[str, Any] = json.loads(json.dumps(identity))
        return made


def make_all(recipe: Recipe) -> None:
    """Train, calibrate and write both models; what is finished is not done again.

    Raises:
        InvalidInput: the work folder is of another recipe.
    """
    recipe.work.mkdir(parents=True, exist_ok=True)
    identify(recipe)
    start(recipe)
    student(recipe)
    finish(recipe, "student")
    mini(recipe)
    finish(recipe, "mini")


def make_companion(recipe: Recipe) -> None:
    """Make pocket-mini from the pocket there is, as `make_all` goes on behind it; the log keeps the lines before.

    Raises:
        InvalidInput: pocket is not what the log tells of, or the work folder is of another recipe.
    """
    recipe.work.mkdir(parents=True, exist_ok=True)
    identify(recipe)
    if not is_noted(recipe, "pocket"):
        entries = logged(recipe.log)
        names = [entry["stage"] for entry in entries]
        known = entries[: names.index("pocket") + 1] if "pocket" in names else []
        if not known or known[-1]["made"]["files"] != files_of(recipe.output / "pocket"):
            raise InvalidInput(f"output={recipe.output} has no pocket that log={recipe.log} tells of, make that first")
        for entry in known:
            note(recipe, entry["stage"], entry["given"], entry["made"])
    mini(recipe)
    finish(recipe, "mini")


def is_finished(folder: Path) -> bool:
    """Whether a training, or a stage between two, is over: its model is written last."""
    return (folder / "model.safetensors").is_file()


def identify(recipe: Recipe) -> None:
    """Write down in the work folder whose stages it has.

    Raises:
        InvalidInput: they are another recipe's and would be taken for this one's, or nobody knows whose.
    """
    file, own = recipe.work / "recipe.json", recipe.identity()
    if file.exists():
        found = json.loads(file.read_text())
        other = {name: (found.get(name), own.get(name)) for name in {**own, **found}}
        differ = [f"{name} is {there!r} there, {here!r} here" for name, (there, here) in other.items() if there != here]
        if differ:
            raise InvalidInput(f"work={recipe.work} is of another recipe, give another folder: {'; '.join(differ)}")
    elif (recipe.work / "tokenizer.json").exists():
        raise InvalidInput(f"work={recipe.work} has stages and no recipe.json that says of what, give another folder")
    else:
        write_json(file, own)


def write_json(file: Path, value: object) -> None:
    """A file that is there whole or not at all."""
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps(value) + "\n")
    partial.rename(file)


# ---- The log.
def note(recipe: Recipe, stage: str, given: Mapping[str, Any], made: Mapping[str, Any]) -> None:
    """Add a stage's line, in place of an older one."""
    entries = {entry["stage"]: entry for entry in logged(recipe.work / "log.jsonl")}
    entries[stage] = {"stage": stage, "given": dict(given), "made": dict(made)}
    file = recipe.work / "log.partial"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries.values()))
    file.rename(recipe.work / "log.jsonl")


def logged(file: Path) -> list[dict[str, Any]]:
    """Entries of a log, none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def is_noted(recipe: Recipe, stage: str) -> bool:
    """Whether a stage has its line: a call may be stopped between the two."""
    return stage in {entry["stage"] for entry in logged(recipe.work / "log.jsonl")}


def file_digest(file: Path) -> str:
    """SHA-256 in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def figures(values: Values) -> dict[str, Any]:
    """Development figures as the log has them."""
    return {"mean": round(judged.mean(values), 4), **{name: round(v, 4) for name, v in judged.means(values).items()}}


# ---- The stages.
def start(recipe: Recipe) -> None:
    """The student's first weights: a bi-encoder's, with fewer words, which compares tokens beside means."""
    folder, file = recipe.work / "start", recipe.work / "tokenizer.json"
    if is_finished(folder) and is_noted(recipe, "start"):
        return
    base = teacher_folder(next(spec for spec in TEACHERS if spec.name == BASE), recipe.work)
    if not is_finished(folder):
        model = new_model(base, student_tokenizer(base, recipe.texts, file), recipe.pool.texts)
        round_words(model.body)
        write_stage(model, file, folder)
    note(
        recipe,
        "start",
        {"base": BASE, "base_weights": file_digest(base / "model.safetensors")},
        {"weights": file_digest(folder / "model.safetensors"), "tokenizer": file_digest(file)},
    )


def student(recipe: Recipe) -> None:
    """Learns from the teachers, what it starts with among them, and the judgements."""

    def groups() -> Iterator[Group]:
        start = EncoderTeacher(_read_fast(recipe.work / "start"))
        yield from taught(
            by_teachers(),
            lambda part: [_with_start(*both) for both in zip(part, start(part), strict=True)],
            beside=True,
        )

    def by_teachers() -> Iterator[Group]:
        window = Window(Tokenizer.from_file(str(recipe.work / "tokenizer.json")))
        known = opinions([query.text for query in recipe.queries], recipe.pool.texts, recipe.teachers)
        yield from training_groups(recipe.pool, recipe.queries, known, window, recipe.seed)
        yield from sentence_groups(recipe.data, recipe.teachers, window, recipe.seed)

    def given() -> dict[str, Any]:
        return {"pool": recipe.pool.digest(), "queries": digest_of(query.shown for query in recipe.queries)}

    trained(recipe, recipe.work / "start", groups, recipe.settings(STEPS), "student", given)


def _with_start(group: Group, own: Sequence[float]) -> list[float]:
    """The teachers' logits and the start's, each in its weight."""
    known = group.teaching.scores if group.teaching is not None else own
    return [(1 - START_WEIGHT) * theirs + START_WEIGHT * logit for theirs, logit in zip(known, own, strict=True)]


def _read_fast(folder: Path) -> CrossEncoder:
    """A stage's model, to score with."""
    return CrossEncoder(str(folder), device="cpu", precision=judged.fast_precision())


def mini(recipe: Recipe) -> None:
    """Two narrower layers and fewer words, which learn from the finished pocket: its states first, then its scores."""
    pocket, folder, file = recipe.output / "pocket", recipe.work / "mini-start", recipe.work / "mini-tokenizer.json"
    made = next(entry for entry in logged(recipe.work / "log.jsonl") if entry["stage"] == "pocket")
    fit = Temperature(**made["given"]["temperature"])
    if not is_finished(folder):
        encoder = CrossEncoder(str(pocket), device="cpu")
        drop_layers(encoder, MINI_LAYERS)
        narrow_layers(encoder, MINI_UNITS)
        calibrate(encoder, fit.inverse)
        smaller = trim_vocabulary(encoder, recipe.texts, MINI_VOCABULARY)
        smaller.tokenizer.backend_tokenizer.save(str(file), pretty=False)
        write_stage(smaller.model, file, folder)

    def drawn(count: int) -> Iterator[Group]:
        window = Window(Tokenizer.from_file(str(file)))
        return found_groups(recipe.pool, recipe.mini_queries, window, recipe.seed, count)

    def uncalibrated(groups: Sequence[Group]) -> list[list[float]]:
        return [[(logit - fit.bias) / fit.scale for logit in logits] for logits in teacher(groups)]

    def scored() -> Iterator[Group]:
        few = islice(drawn(DOCUMENTS), part(MINI_GROUPS, recipe.share))
        yield from taught(few, uncalibrated, beside=True)

    teacher = EncoderTeacher(_read_fast(pocket))
    given = {
        "layers": MINI_LAYERS,
        "units": MINI_UNITS,
        "vocabulary": MINI_VOCABULARY,
        "pocket": made["made"]["files"],
        "queries": digest_of(query.shown for query in recipe.mini_queries),
    }
    settings = replace(recipe.settings(STATE_STEPS), **STATE_SETTINGS)
    states = StateDistillation(CrossEncoder(str(pocket), device="cpu", precision="fp32"))
    trained(recipe, folder, lambda: drawn(STATE_DOCUMENTS), settings, "mini-states", lambda: given, states)
    settings = replace(recipe.settings(MINI_STEPS), **MINI_SETTINGS)
    trained(recipe, recipe.work / "mini-states", scored, settings, "mini", lambda: given)


def trained(
    recipe: Recipe,
    start: Path,
    groups: Callable[[], Iterable[Group]],
    settings: TrainingSettings,
    name: str,
    given: Callable[[], Mapping[str, Any]],
    loss: Loss | None = None,
) -> None:
    """Train the model in `start` on the groups, into a folder of that name; goes on where a stopped training was.

    The groups are made once: what a run goes on with must be the same to the last bit. What they are made of is kept
    beside them, so that the log tells of these groups and not of what would be drawn when it is written.
    """
    folder, file, origin = recipe.work / name, recipe.work / f"{name}.jsonl", recipe.work / f"{name}.given.json"
    if not is_finished(folder):
        if not file.exists():
            write_json(origin, given())  # first, so that no groups are without it
            write_groups(file, groups())
        log.info("%s: training", name)
        encoder = CrossEncoder(str(start), device="cpu")
        hold_words(encoder.model)
        train(encoder, read_groups(file), settings, output_dir=folder, loss=loss, watch=_told, show_progress_bar=False)
    if is_noted(recipe, name):
        return
    entries = [json.loads(line) for line in (folder / "training.jsonl").read_text().splitlines()]
    note(
        recipe,
        name,
        {
            **(json.loads(origin.read_text()) if origin.exists() else given()),
            "settings": asdict(settings) | ({} if loss is None else {"loss": type(loss).__name__}),
            "groups": file_digest(file),
            "start": file_digest(start / "model.safetensors"),
        },
        {
            "weights": file_digest(folder / "model.safetensors"),
            "last": entries[-1],
        },
    )


def _told(entry: Mapping[str, Any]) -> None:
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in entry.items()}
    log.info("%s", " ".join(f"{key}={value}" for key, value in shown.items()))


MODELS = {"student": ("pocket", "tokenizer.json"), "mini": ("pocket_mini", "mini-tokenizer.json")}


def files_of(folder: Path) -> dict[str, str]:
    """Digests of a finished model's files, its card aside, by their place in the folder."""
    own = [file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".md"]
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in own}


def finish(recipe: Recipe, name: str) -> None:
    """Calibrate a trained model on the development collections and write the package's folder and the log."""
    folder, tokenizer = MODELS[name]
    output = recipe.output / folder
    noted = {entry["stage"]: entry for entry in logged(recipe.work / "log.jsonl")}
    if folder not in noted or noted[folder]["made"]["files"] != files_of(output):
        encoder, rounded = CrossEncoder(str(recipe.work / name), device="cpu"), recipe.work / f"{name}-int8"
        write_folder(encoder.model, recipe.work / tokenizer, rounded)
        # what is scored is the stored weights, once: scale and bias change no order
        scorer = judged.scorer(str(rounded), recipe.work)
        scores = [scorer(own) for own in recipe.exams]
        fit = temperature(recipe.exams, scores)
        calibrate(encoder, fit)
        write_folder(encoder.model, recipe.work / tokenizer, output)
        values = judged.collected(recipe.exams, scorer)
        counted = ("documents", "queries")
        left_out = {own.name: dict(zip(counted, own.collection.left_out, strict=True)) for own in recipe.exams}
        given = {"temperature": asdict(fit), "left_out": left_out}
        note(recipe, folder, given, {"files": files_of(output), "development": figures(values)})
    shutil.copy(recipe.work / "log.jsonl", recipe.log)
