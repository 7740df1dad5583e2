"""Labelled queries to a better reranker: data, negatives, losses, the loop, and what survives a crash.

Importing it does not load torch.
"""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.training.data.groups import Group
    from secondpass.training.data.sources import read_groups
    from secondpass.training.distillation.layers import drop_layers
    from secondpass.training.distillation.teachers import taught
    from secondpass.training.distillation.vocabulary import trim_vocabulary
    from secondpass.training.losses.named import LOSSES, make_loss
    from secondpass.training.measuring.dev_ranking import DevRanking
    from secondpass.training.negatives.mining import mine_negatives
    from secondpass.training.negatives.rule import MiningRule
    from secondpass.training.settings import LoraSettings, TrainingSettings
    from secondpass.training.trainer import TrainingReport, train

__all__ = [
    "LOSSES",
    "DevRanking",
    "Group",
    "LoraSettings",
    "MiningRule",
    "TrainingReport",
    "TrainingSettings",
    "drop_layers",
    "make_loss",
    "mine_negatives",
    "read_groups",
    "taught",
    "train",
    "trim_vocabulary",
]

__getattr__ = lazily(
    __name__,
    {
        "DevRanking": "measuring.dev_ranking",
        "Group": "data.groups",
        "LOSSES": "losses.named",
        "LoraSettings": "settings",
        "MiningRule": "negatives.rule",
        "TrainingReport": "trainer",
        "TrainingSettings": "settings",
        "drop_layers": "distillation.layers",
        "make_loss": "losses.named",
        "mine_negatives": "negatives.mining",
        "read_groups": "data.sources",
        "taught": "distillation.teachers",
        "train": "trainer",
        "trim_vocabulary": "distillation.vocabulary",
    },
)
