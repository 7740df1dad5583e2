"""What a configuration file says, as values: model, data, settings, output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from secondpass.errors import InvalidInput
from secondpass.text import positive_int
from secondpass.training.settings import TrainingSettings
from secondpass.windows import Borders, Select, Windows

# Known without importing ir_measures.
MEASURES = ("nDCG@10", "RR@10")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Where training starts.

    Attributes:
        name: a folder, or a name on the hub; "secondpass/pocket" comes with the package.
        num_labels: size of the head; None takes the model's own. A head that is new is drawn from `settings.seed`.
        max_length: longest input in tokens; None takes what the model allows.
        device: "cpu", "cuda", "cuda:1"; None takes the best there is. Of several processes "cuda" is a GPU for each.
        truncation: which text is cut when both are too long together (see `CrossEncoder`); None is the model's rule.
            Under "windows" held-out documents are read whole, and of one that is learnt from the first window.
        revision: of a model on the hub; pin a commit.
        instruction: what the model is told to look for, where its template has a place for that; stored with it.
        template: of a model whose folder brings none, as `true_token` and `false_token` are: see `CrossEncoder`.
    """

    name: str = "secondpass/pocket"
    num_labels: int | None = None
    max_length: int | None = None
    device: str | None = None
    truncation: Literal["longest_first", "only_document", "error", "windows"] | None = None
    revision: str | None = None
    instruction: str | None = None
    template: str | None = None
    true_token: str | None = None
    false_token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSource:
    """One source of labelled queries: the arguments of `data.sources.read_groups`, whose `source` is a path here.

    Attributes:
        limit: only the first so many groups.
    """

    path: str
    split: str = "train"
    columns: Mapping[str, Any] | None = None
    corpus: str | None = None
    queries: str | None = None
    run: str | None = None
    unjudged_negatives: int = 0
    relevant_from: float | None = None
    quoted: bool | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None:
            positive_int(self.limit, "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class DevSource(TrainSource):
    """The same for held-out queries, whose documents are ranked while training; labels are whole grades."""

    split: str = "dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutTest:
    """A BEIR folder whose first pass is re-ranked before and after training.

    Attributes:
        path: of the folder.
        split: which judgements.
        run: the first pass, a run file; None: BM25.
        depth: how many of its documents are re-ranked.
        limit: only so many of the queries, evenly spaced.
        measures: as ir_measures names them.
    """

    path: str
    split: str = "test"
    run: str | None = None
    depth: int = 100
    limit: int | None = None
    measures: tuple[str, ...] = MEASURES

    def __post_init__(self) -> None:
        positive_int(self.depth, "depth")
        if self.limit is not None:
            positive_int(self.limit, "limit")
        if not self.measures:
            raise InvalidInput("measures is empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class PassagesConfig:
    """How long documents that are learnt from become their best windows, see `data.passages.best_passages`.

    Attributes:
        model: whose scores say which is the best, and whose windows they are; None is the model to be trained, if it
            is a reranker already.
        tokens, overlap, most, borders, select: as `Windows` has them.
    """

    model: str | None = None
    tokens: int | None = None
    overlap: int | None = None
    most: int | None = None
    borders: Borders = "sentences"
    select: Select = "first"

    def __post_init__(self) -> None:
        _ = self.windows

    @property
    def windows(self) -> Windows:
        """The windows that are said."""
        return Windows(self.tokens, self.overlap, self.most, borders=self.borders, select=self.select)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is learnt from and what it is measured on.

    Attributes:
        train: sources, read one after the other.
        join: rows of the same query become one group; for losses over lists when rows are pairs.
        passages: documents of `train` that are too long become their best windows; None: they are cut.
        dev: held-out queries; the best weights are those that rank them best by the first of `test.measures`.
        dev_share: hold out this share of the training queries instead.
        test: measured once before and once after.
    """

    train: tuple[TrainSource, ...]
    join: bool = False
    passages: PassagesConfig | None = None
    dev: tuple[DevSource, ...] = ()
    dev_share: float = 0.0
    test: HeldOutTest | None = None

    def __post_init__(self) -> None:
        if not self.train:
            raise InvalidInput("train is empty")
        if not 0 <= self.dev_share < 1:
            raise InvalidInput(f"dev_share={self.dev_share!r} is not from 0 to below 1")
        if self.dev and self.dev_share:
            raise InvalidInput("dev_share goes without dev: give one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """What is written.

    Attributes:
        folder: for the model, its log and card, and checkpoints meanwhile.
        storage: "int8": a quarter of the size (see `models.saving.save`); None: the model's own numbers.
        card: write README.md.
        tensorboard: write event files for TensorBoard too, under folder/tensorboard.
    """

    folder: str
    storage: Literal["int8"] | None = None
    card: bool = True
    tensorboard: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """A whole run. Paths are absolute once it has been read from a file (`yaml.read_config`)."""

    data: DataConfig
    output: OutputConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    settings: TrainingSettings = field(default_factory=TrainingSettings)
