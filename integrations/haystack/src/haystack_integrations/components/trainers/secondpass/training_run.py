"""One run of the trainer component: labelled queries to a folder with a model, and what came of it in plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haystack_integrations.components.trainers.secondpass.training_groups import LabelledQueries, LabelledQuery

from secondpass import CrossEncoder
from secondpass.training.configuration.training_config import MEASURES
from secondpass.training.data.fingerprints import fingerprint
from secondpass.training.data.groups import Group
from secondpass.training.losses.contract import Loss
from secondpass.training.measuring.before_after import AFTER, BEFORE, BeforeAfter, of_groups
from secondpass.training.measuring.card import Card, write_card
from secondpass.training.measuring.held_out import held_out
from secondpass.training.settings import TrainingSettings
from secondpass.training.trainer import TrainingReport, train


@dataclass(frozen=True, slots=True)
class Request:
    """What the component was told; `unjudged` candidates of each training query count as not relevant."""

    model: str
    output_dir: Path
    settings: TrainingSettings
    loss: Loss
    dev_share: float
    unjudged: int
    relevant_from: int
    max_length: int | None
    device: str
    token: str | None
    resume: bool
    card: bool
    show_progress_bar: bool

    def to_learn(self, query: LabelledQuery) -> Group:
        """The group of a training query, its labels as the loss reads them."""
        grades = [document.grade for document in query.judged]
        if self.loss.labels == "relevance":
            labels = [float(grade >= self.relevant_from) for grade in grades]
        else:
            labels = [float(max(grade, 0)) for grade in grades]
        return query.group(labels, self.unjudged)

    def to_rank(self, query: LabelledQuery) -> Group:
        """The group of a held-out query: grades, and all of its candidates."""
        grades = [float(max(document.grade, 0)) for document in query.judged]
        return query.group(grades, len(query.unjudged) if self.unjudged else 0)


def trained(labelled: LabelledQueries, request: Request) -> dict[str, Any]:
    """Train, and return the outputs of the component.

    Raises:
        InvalidInput: nothing can be learnt from the groups, or there are too few queries to hold some out.
        TrainingError: a loss or gradient is not finite.
        CheckpointError: the folder is in use, cannot be written, or holds another run's checkpoints.
    """
    encoder = CrossEncoder(request.model, max_length=request.max_length, device=request.device, token=request.token)
    queries = {query.id: query for query in labelled.kept}
    groups = [request.to_learn(query) for query in queries.values()]
    dev: list[BeforeAfter] = []
    if request.dev_share:
        groups, share = held_out(groups, request.dev_share, request.settings.seed)
        dev = [of_groups("dev", [request.to_rank(queries[group.query_id]) for group in share], MEASURES)]
    for held in dev:
        held.measure(encoder, BEFORE)
    report = train(
        encoder,
        groups,
        request.settings,
        dev=dev[0].ranking if dev else None,
        output_dir=request.output_dir,
        resume=request.resume,
        show_progress_bar=request.show_progress_bar,
    )
    for held in dev:
        held.measure(encoder, AFTER)
    if request.card:
        write_card(request.output_dir, _card(request, groups, report, dev))
    scores = [{"step": step, "score": score} for step, score in report.scores]
    return {
        "model": str(request.output_dir),
        "report": _plain(report, labelled, len(groups), dev),
        "scores": scores,
    }


def _plain(
    report: TrainingReport, labelled: LabelledQueries, learnt: int, dev: Sequence[BeforeAfter]
) -> dict[str, Any]:
    return {
        "steps": report.steps,
        "epochs": report.epochs,
        "best_score": report.best_score,
        "best_step": report.best_step,
        "stopped_early": report.stopped_early,
        "resumed_from": report.resumed_from,
        "seconds": report.seconds,
        "pairs": report.pairs,
        "tokens": report.tokens,
        "counts": report.counts.as_json(),
        "queries": {
            "trained": learnt,
            "held_out": sum(len(held.queries) for held in dev),
            "without_relevant": labelled.without_relevant,
        },
        "dev": {name: values for held in dev for name, values in _changes(held).items()},
    }


def _changes(held: BeforeAfter) -> dict[str, dict[str, float]]:
    gain = held.gain()
    before, after = gain.reports
    return {
        each.measure: {
            "before": before.means[each.measure],
            "after": after.means[each.measure],
            "difference": each.difference,
            "low": each.interval.low,
            "high": each.interval.high,
            "p": each.p_adjusted,
        }
        for each in gain.comparisons
    }


def _card(request: Request, groups: Sequence[Group], report: TrainingReport, dev: Sequence[BeforeAfter]) -> Card:
    return Card(
        name=request.output_dir.name,
        base_model=request.model,
        num_labels=1,
        settings=request.settings,
        sources=(f"{len(groups):,} labelled queries from a Haystack pipeline",),
        counts=report.counts.lines(),
        fingerprint=fingerprint(groups),
        report=report,
        measured=dev,
        command="Pipeline.run with haystack_integrations.components.trainers.secondpass.CrossEncoderTrainer",
    )
