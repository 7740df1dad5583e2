"""Labelled queries to a better reranker: data, negatives, losses, the loop, and what survives a crash.

Importing it does not load torch.
"""

from typing import TYPE_CHECKING

from secondpass.lazy import lazily

if TYPE_CHECKING:
    from secondpass.training.data.groups import Group, Teaching, write_groups
    from secondpass.training.data.passages import best_passages
    from secondpass.training.data.sources import read_groups
    from secondpass.training.distillation.teachers import taught
    from secondpass.training.distillation.vocabulary import trim_vocabulary
    from secondpass.training.losses import LOSSES, make_loss
    from secondpass.training.losses.pointwise import StateDistillation
    from secondpass.training.measuring.before_after import DevRanking
    from secondpass.training.negatives.mining import mine_negatives
    from secondpass.training.negatives.sifting import MiningRule
    from secondpass.training.running.lora import load_lora
    from secondpass.training.settings import LoraSettings, TrainingSettings
    from secondpass.training.trainer import TrainingReport, train
    from secondpass.training.weights.layers import drop_layers, narrow_layers
    from secondpass.training.weights.optimisation import mean_weights, with_changes

__all__ = [
    "LOSSES",
    "DevRanking",
    "Group",
    "LoraSettings",
    "MiningRule",
    "StateDistillation",
    "Teaching",
    "TrainingReport",
    "TrainingSettings",
    "best_passages",
    "drop_layers",
    "load_lora",
    "make_loss",
    "mean_weights",
    "mine_negatives",
    "narrow_layers",
    "read_groups",
    "taught",
    "train",
    "trim_vocabulary",
    "with_changes",
    "write_groups",
]

__getattr__ = lazily(
    __name__,
    {
        "DevRanking": "measuring.before_after",
        "Group": "data.groups",
        "LOSSES": "losses",
        "LoraSettings": "settings",
        "MiningRule": "negatives.sifting",
        "StateDistillation": "losses.pointwise",
        "Teaching": "data.groups",
        "TrainingReport": "trainer",
        "TrainingSettings": "settings",
        "best_passages": "data.passages",
        "drop_layers": "weights.layers",
        "load_lora": "running.lora",
        "make_loss": "losses",
        "mean_weights": "weights.optimisation",
        "mine_negatives": "negatives.mining",
        "narrow_layers": "weights.layers",
        "read_groups": "data.sources",
        "taught": "distillation.teachers",
        "train": "trainer",
        "trim_vocabulary": "distillation.vocabulary",
        "with_changes": "weights.optimisation",
        "write_groups": "data.groups",
    },
)
