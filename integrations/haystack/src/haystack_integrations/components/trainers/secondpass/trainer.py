"""The Haystack component that trains a reranker on labelled queries.

Its YAML `type` is `haystack_integrations.components.trainers.secondpass.trainer.CrossEncoderTrainer`: the module's name
is public API.
"""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

from haystack import Document, component, logging
from haystack.utils import ComponentDevice, Secret
from haystack_integrations.common.secondpass import parameters
from haystack_integrations.common.secondpass.documents import TextLayout
from haystack_integrations.common.secondpass.serialized import SerializedComponent
from haystack_integrations.components.trainers.secondpass.training_groups import LabelledQueries, labelled_queries
from haystack_integrations.components.trainers.secondpass.training_run import Request, trained

from secondpass.errors import InvalidInput
from secondpass.training.configuration.typed import made
from secondpass.training.configuration.yaml_document import YamlDocument
from secondpass.training.losses.named import make_loss
from secondpass.training.settings import TrainingSettings

logger = logging.getLogger(__name__)


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
        self.embedding_separator = parameters.text("embedding_separator", embedding_separator)
        self.max_length = parameters.optional_positive("max_length", max_length)
        self.device = parameters.device("device", device)
        self.token = parameters.secret("token", token)
        self.resume = parameters.flag("resume", resume)
        self.card = parameters.flag("card", card)
        self.show_progress_bar = parameters.flag("show_progress_bar", show_progress_bar)

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
        labelled = labelled_queries(queries, ground_truth_documents, documents, query_ids, self._layout())
        self._warn(labelled)
        return trained(labelled, self._request())

    @component.output_types(model=str, report=dict[str, Any], scores=list[dict[str, Any]])
    async def run_async(
        self,
        *,
        queries: list[str],
        ground_truth_documents: list[list[Document]],
        documents: list[list[Document]] | None = None,
        query_ids: list[str] | None = None,
    ) -> dict[str, Any]:
        """Do what `run` does, in a thread; the event loop goes on meanwhile.

        :param queries: The texts of the queries.
        :param ground_truth_documents: For each query the judged documents, with grades as scores.
        :param documents: For each query the candidates of a first pass, best first.
        :param query_ids: For each query its id, for messages.
        :returns:
            The same dictionary as `run`.

        :raises ValueError:
            If inputs are missing, have a wrong type or unequal lengths, or nothing can be learnt from them.
        :raises RuntimeError:
            If training cannot go on.
        """
        return await asyncio.to_thread(
            self.run,
            queries=queries,
            ground_truth_documents=ground_truth_documents,
            documents=documents,
            query_ids=query_ids,
        )

    def _layout(self) -> TextLayout:
        return TextLayout(meta_fields=self.meta_fields_to_embed, separator=self.embedding_separator)

    def _request(self) -> Request:
        requested = ComponentDevice.from_str(self.device) if isinstance(self.device, str) else self.device
        return Request(
            model=self.model,
            output_dir=Path(self.output_dir),
            settings=self._settings,
            loss=self._loss,
            dev_share=self.dev_share,
            unjudged=self.negatives_per_query if self.unjudged_as_negatives else 0,
            relevant_from=self.relevant_from,
            max_length=self.max_length,
            device=ComponentDevice.resolve_device(requested).to_torch_str(),
            token=self.token.resolve_value() if self.token is not None else None,
            resume=self.resume,
            card=self.card,
            show_progress_bar=self.show_progress_bar,
        )

    def _warn(self, labelled: LabelledQueries) -> None:
        if labelled.without_relevant or labelled.documents_without_text:
            logger.warning(
                "{queries} queries have no relevant document with a text and are left out; {documents} judged "
                "documents have no text.",
                queries=labelled.without_relevant,
                documents=labelled.documents_without_text,
            )


def _training_settings(given: object) -> TrainingSettings:
    if given is None:
        return TrainingSettings()
    if not isinstance(given, dict):
        raise InvalidInput(f"settings is {type(given).__name__}, not a dictionary")
    return made(TrainingSettings, YamlDocument(given, "settings"))
