"""Training in pipelines: `trainer.CrossEncoderTrainer` makes a better reranker out of labelled queries.

`labelled_candidates.LabelledCandidates` gives it all labelled queries of a dataset with what a first pass finds.
"""

from haystack_integrations.components.trainers.secondpass.labelled_candidates import LabelledCandidates
from haystack_integrations.components.trainers.secondpass.trainer import CrossEncoderTrainer

__all__ = ["CrossEncoderTrainer", "LabelledCandidates"]
