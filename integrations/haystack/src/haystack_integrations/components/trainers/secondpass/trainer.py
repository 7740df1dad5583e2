"""The Haystack component that trains a reranker on labelled queries. YAML names this module: its name is public API."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from haystack import Document, component, logging
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import TextLayout, deduplicated, listed
from haystack_integrations.common.secondpass.model_lifecycle import SerializedComponent, in_thread, torch_device
from haystack_integrations.components.evaluators.secondpass.comparison_field import ComparisonField

from secondpass import CrossEncoder
from secondpass.errors import InvalidInput
from secondpass.text import checked, checked_query
from secondpass.training.configuration import MEASURES
from secondpass.training.data.groups import Group, fingerprint
from secondpass.training.losses import make_loss
from secondpass.training.measuring.before_after import AFTER, BEFORE, BeforeAfter, held_out, of_groups
from secondpass.training.measuring.card import Card, write_card
from secondpass.training.settings import TrainingSettings
from secondpass.training.trainer import TrainingReport, train
from secondpass.training.yaml import YamlDocument, made

__all__ = ["CrossEncoderTrainer"]

logger = logging.getLogger(__name__)
IDS = ComparisonField("id")


@component
class CrossEncoderTrainer(SerializedComponent):
    """Trains a cross-encoder on labelled queries and writes it into a folder that a ranker can load.

    It takes what `LabelledCandidates` gives, or queries with their judged documents and a retriever's candidates from
    anywhere. Part of the queries is held out: the best weights by nDCG@10 on them are kept, and the report says what
    training changed. A run that is broken off goes on where its last checkpoint was when it is started again with the
    same inputs.

    ### Usage example

    ```python
    from haystack_integrations.components.rankers.secondpass import SecondPassRanker
    from haystack_integrations.components.trainers.secondpass import CrossEncoderTrainer, LabelledCandidates

    labelled = LabelledCandidates(dataset="secondpass/demo", split="test").run()
    trainer = CrossEncoderTrainer(output_dir="my-reranker", dev_share=0.2, settings={"epochs": 2})
    result = trainer.run(**labelled)
    print(result["report"]["dev"])
    ranker = SecondPassRanker(model=result["model"])
    ```
    """

    def __init__(
        self,
        model: str | Path = "secondpass/pocket",
        *,
        output_dir: str | Path,
        settings: dict[str, Any] | None = None,
        dev_share: float = 0.1,
        unjudged_as_negatives: bool = True,
        negatives_per_query: int = 8,
        relevant_from: int = 1,
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        max_length: int | None = None,
        device: ComponentDevice | str | None = None,
        token: Secret | None = None,
        resume: bool = True,
        card: bool = True,
        show_progress_bar: bool = False,
        instruction: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Check and keep the parameters; the model is loaded by `run`.

        :param model: A local folder or the Hugging Face name of the cross-encoder to start from, with one label.
        :param output_dir: The folder for the model, its checkpoints, log and card; made if missing.
        :param settings: How to train: any of `secondpass.training.settings.TrainingSettings`, such as `loss`, `epochs`
            or `learning_rate`.
        :param dev_share: The share of the queries to hold out. 0 holds out none: the last weights are kept then, and
            nothing is measured.
        :param unjudged_as_negatives: If `True`, candidates that nobody has judged count as not relevant. Some of them
            will be relevant; turn it off where `ground_truth_documents` has judged negatives (score 0).
        :param negatives_per_query: How many unjudged candidates each training query takes, from the top of its list.
            Held-out queries rank all of theirs.
        :param relevant_from: The lowest grade that is relevant, for losses that take labels in [0, 1].
        :param meta_fields_to_embed: Meta fields whose values are put before the content, as the ranker will put them.
        :param embedding_separator: Text between the meta values and the content.
        :param max_length: The longest input in tokens. If `None`, what the model allows.
        :param device: The device to train on. If `None`, the default device of the machine.
        :param token: The token for private models of the Hugging Face Hub, read from the environment.
        :param resume: If `False`, begin anew whatever checkpoints there are.
        :param card: Whether to write a model card, README.md.
        :param show_progress_bar: Whether to show progress bars.
        :param instruction: What the model is told to look for, as `SecondPassRanker` takes it; stored with the model.
        :param model_kwargs: Further arguments of loading it, as `SecondPassRanker` takes them: among them `template`,
            `true_token` and `false_token` of a causal language model whose folder does not say them.

        :raises ValueError:
            If a parameter has a wrong type or value, with its name.
        """
        self.model = parameters.model_name("model", model)
        self.output_dir = parameters.model_name("output_dir", output_dir)
        self.settings = copy.deepcopy(settings)
        self._settings = _training_settings(settings)
        self._loss = make_loss(self._settings.loss, self._settings.loss_options)
        if self._loss.labels == "class":
            raise InvalidInput(f"settings: loss {self._settings.loss} is for classes, not for relevance")
        self.dev_share = parameters.optional_number("dev_share", dev_share) or 0.0
        if not 0 <= self.dev_share < 1:
            raise InvalidInput(f"dev_share={dev_share!r} is not from 0 to below 1")
        self.unjudged_as_negatives = parameters.flag("unjudged_as_negatives", unjudged_as_negatives)
        self.negatives_per_query = parameters.positive("negatives_per_query", negatives_per_query)
        self.relevant_from = parameters.positive("relevant_from", relevant_from)
        self.meta_fields_to_embed = parameters.field_names("meta_fields_to_embed", meta_fields_to_embed)
        self.embedding_separator = checked(embedding_separator, "embedding_separator")
        self.max_length = parameters.optional_positive("max_length", max_length)
        self.device = parameters.device("device", device)
        self.token = parameters.secret("token", token)
        self.resume = parameters.flag("resume", resume)
        self.card = parameters.flag("card", card)
        self.show_progress_bar = parameters.flag("show_progress_bar", show_progress_bar)
        self.instruction = None if instruction is None else checked(instruction, "instruction")
        self.model_kwargs = parameters.checked_arguments("model_kwargs", model_kwargs)

    @component.output_types(model=str, report=dict[str, Any], scores=list[dict[str, Any]])
    def run(
        self,
        *,
        queries: list[str],
        ground_truth_documents: list[list[Document]],
        documents: list[list[Document]] | None = None,
        query_ids: list[str] | None = None,
    ) -> dict[str, Any]:
        """Train on labelled queries.

        :param queries: The texts of the queries.
        :param ground_truth_documents: For each query the judged documents; `score` is the grade (1 and up is relevant),
            none at all means 1 for each. One without content takes that of the candidate with its id.
        :param documents: For each query the candidates of a first pass, best first.
        :param query_ids: For each query its id, for messages.
        :returns:
            A dictionary with the following keys:
            - `model`: The folder of the trained model, for a ranker's `model`.
            - `report`: What was done, in plain values: `steps`, `epochs`, `seconds`, `pairs`, `tokens`, `best_score`,
              `best_step`, `stopped_early`, `resumed_from`, `counts` of the training data, `queries` (how many were
              trained on, held out, left out), and `dev`: by measure the values `before` and `after` with the
              `difference`, its 95 % interval (`low`, `high`) and `p`.
            - `scores`: Each evaluation on the held-out queries: its `step` and `score`.

        :raises ValueError:
            If inputs are missing, have a wrong type or unequal lengths, or nothing can be learnt from them.
        :raises RuntimeError:
            If training cannot go on.
        """
        labelled = graded_queries(queries, ground_truth_documents, documents, query_ids, self._layout())
        self._warn(labelled)
        return self._trained(labelled)

    run_async = in_thread(run)

    def _layout(self) -> TextLayout:
        return TextLayout(self.meta_fields_to_embed, self.embedding_separator)

    def _warn(self, labelled: GradedQueries) -> None:
        if labelled.without_relevant or labelled.documents_without_text:
            logger.warning(
                "{queries} queries have no relevant document with a text and are left out; {documents} judged "
                "documents have no text.",
                queries=labelled.without_relevant,
                documents=labelled.documents_without_text,
            )

    def _trained(self, labelled: GradedQueries) -> dict[str, Any]:
        """Train, measuring the held-out queries before and after."""
        token = None if self.token is None else self.token.resolve_value()
        encoder = CrossEncoder(
            self.model,
            max_length=self.max_length,
            device=torch_device(self.device),
            token=token,
            instruction=self.instruction,
            **parameters.engine_arguments(self.model_kwargs, None, None),
        )
        queries = {query.id: query for query in labelled.kept}
        groups = [self._to_learn(query) for query in queries.values()]
        dev: list[BeforeAfter] = []
        if self.dev_share:
            groups, share = held_out(groups, self.dev_share, self._settings.seed)
            dev = [of_groups("dev", [self._to_rank(queries[group.query_id]) for group in share], MEASURES)]
        for held in dev:
            held.measure(encoder, BEFORE)
        report = train(
            encoder,
            groups,
            self._settings,
            dev=dev[0].ranking if dev else None,
            output_dir=self.output_dir,
            resume=self.resume,
            show_progress_bar=self.show_progress_bar,
        )
        for held in dev:
            held.measure(encoder, AFTER)
        if self.card:
            write_card(Path(self.output_dir), self._card(groups, report, dev))
        scores = [{"step": step, "score": score} for step, score in report.scores]
        return {"model": self.output_dir, "report": _plain(report, labelled, len(groups), dev), "scores": scores}

    def _to_learn(self, query: GradedQuery) -> Group:
        """The group of a training query, its labels as the loss reads them."""
        grades = [document.grade for document in query.judged]
        if self._loss.labels == "relevance":
            labels = [float(grade >= self.relevant_from) for grade in grades]
        else:
            labels = [float(max(grade, 0)) for grade in grades]
        return query.group(labels, self.negatives_per_query if self.unjudged_as_negatives else 0)

    def _to_rank(self, query: GradedQuery) -> Group:
        """The group of a held-out query: grades, and all of its candidates."""
        grades = [float(max(document.grade, 0)) for document in query.judged]
        return query.group(grades, len(query.unjudged) if self.unjudged_as_negatives else 0)

    def _card(self, groups: Sequence[Group], report: TrainingReport, dev: Sequence[BeforeAfter]) -> Card:
        return Card(
            name=Path(self.output_dir).name,
            base_model=self.model,
            num_labels=1,
            settings=self._settings,
            sources=(f"{len(groups):,} labelled queries from a Haystack pipeline",),
            counts=report.counts.lines(),
            fingerprint=fingerprint(groups),
            report=report,
            measured=dev,
            command="Pipeline.run with haystack_integrations.components.trainers.secondpass.CrossEncoderTrainer",
        )


def _training_settings(given: object) -> TrainingSettings:
    if given is None:
        return TrainingSettings()
    if not isinstance(given, dict):
        raise InvalidInput(f"settings is {type(given).__name__}, not a dictionary")
    return made(TrainingSettings, YamlDocument(given, "settings"))


def _plain(report: TrainingReport, labelled: GradedQueries, learnt: int, dev: Sequence[BeforeAfter]) -> dict[str, Any]:
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


@dataclass(frozen=True, slots=True)
class JudgedDocument:
    """A document's text with its grade; `id` is the document's."""

    id: str
    text: str
    grade: int


@dataclass(frozen=True, slots=True)
class GradedQuery:
    """One query: judged documents, and candidates nobody has judged, in the first pass's order."""

    id: str
    text: str
    judged: tuple[JudgedDocument, ...]
    unjudged: tuple[tuple[str, str], ...]

    def group(self, labels: Sequence[float], unjudged: int) -> Group:
        """A group with these labels for the judged, and 0 for the first `unjudged` of the others."""
        others = self.unjudged[:unjudged]
        return Group(
            self.text,
            (*(document.text for document in self.judged), *(text for _, text in others)),
            (*labels, *(0.0 for _ in others)),
            f"queries[{self.id}]",
            self.id,
            (*(document.id for document in self.judged), *(name for name, _ in others)),
        )


@dataclass(frozen=True, slots=True)
class GradedQueries:
    """All queries with a relevant document that has a text, and how much was left out."""

    kept: tuple[GradedQuery, ...]
    without_relevant: int
    documents_without_text: int


def graded_queries(
    queries: object, truths: object, candidates: object, query_ids: object, layout: TextLayout
) -> GradedQueries:
    """Join what a component's sockets give, a list each with one entry a query.

    A judged document without a text takes that of the candidate of its id. A candidate with the text of a judged
    document is that document.

    Raises:
        InvalidInput: an input is no list, they are of unequal lengths, a query is blank, an id comes twice, grades are
            mixed or no whole numbers, or no query has a relevant document with a text.
    """
    given_queries = parameters.by_query("queries", queries)
    asked = [checked_query(query, f"queries[{place}]") for place, query in enumerate(given_queries)]
    size = len(asked)
    judged = parameters.by_query("ground_truth_documents", truths, size, "queries")
    found = [()] * size if candidates is None else parameters.by_query("documents", candidates, size, "queries")
    names = parameters.query_ids(query_ids, size, "queries") or [str(place) for place in range(size)]
    kept, without_relevant, without_text = [], 0, 0
    for place, (name, query) in enumerate(zip(names, asked, strict=True)):
        truth = listed(judged[place], f"ground_truth_documents[{place}]")
        given = deduplicated(listed(found[place], f"documents[{place}]"))
        grades = IDS.grades(truth, f"ground_truth_documents[{place}]")
        texts = _texts([*truth, *given], layout)
        known = tuple(
            JudgedDocument(str(key), texts[str(key)], grade) for key, grade in grades.items() if str(key) in texts
        )
        without_text += len(grades) - len(known)
        if not any(document.grade > 0 for document in known):
            without_relevant += 1
            continue
        judged_texts = {document.text for document in known}
        others = {
            texts[document.id]: document.id
            for document in reversed(given)
            if document.id in texts and document.id not in grades and texts[document.id] not in judged_texts
        }
        kept.append(GradedQuery(name, query, known, tuple((key, text) for text, key in reversed(others.items()))))
    if not kept:
        raise InvalidInput("ground_truth_documents has no relevant document with a text, for any query")
    return GradedQueries(tuple(kept), without_relevant, without_text)


def _texts(documents: Iterable[Document], layout: TextLayout) -> dict[str, str]:
    """Texts by id, of the first document of that id that has one."""
    texts: dict[str, str] = {}
    for document in documents:
        if document.id not in texts and layout.has_text(document):
            texts[document.id] = layout.document(document)
    return texts
