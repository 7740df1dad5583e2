"""Groups of long documents to groups of their best passages, which a model can read whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from tqdm import tqdm

from secondpass.training.data.groups import Group
from secondpass.windows import Windows

if TYPE_CHECKING:
    from secondpass.ranking import Ranking, Relevance
    from secondpass.reranker import Reranker

# Groups that are scored together.
TOGETHER = 64


def best_passages(
    groups: Iterable[Group],
    reranker: Reranker,
    windows: Windows | None = None,
    *,
    relevance: Relevance | None = None,
    progress: bool = False,
) -> Iterator[Group]:
    """The same groups with the best window that was read of each document that does not fit one in its place, in order.

    A label belongs to the document, and most windows of a relevant one answer nothing: of all that are to be taken for
    relevant the one that scores best is the likeliest, and of a document that is not relevant it is the hardest
    negative (Dai and Callan 2019 label every window alike, and call that noise). A document that fits stays as it is,
    and so does one whose best window is, letter for letter, another document of the group with another label.

    Args:
        groups: any number of them; each is read once.
        reranker: a `CrossEncoder`, whose windows they are and whose scores say which is the best.
        windows: how documents are cut; None is `Windows()`.
        relevance: for a reranker with several labels, as in `CrossEncoder.rank`.
        progress: show a bar on stderr.

    Raises:
        InvalidInput: an argument is refused, or a query is blank.
        NonFiniteScore: the reranker gave NaN or infinity.
    """
    stream = iter(groups)
    total = len(groups) if isinstance(groups, Sequence) else None
    with tqdm(total=total, desc="Best passages", unit="groups", disable=not progress) as bar:
        while part := list(islice(stream, TOGETHER)):
            rankings = reranker.rank_many(
                [group.query for group in part],
                [group.documents for group in part],
                show_progress_bar=False,
                relevance=relevance,
                truncation=windows or Windows(),
            )
            bar.update(len(part))
            yield from map(_shortened, part, rankings)


def _shortened(group: Group, ranking: Ranking) -> Group:
    texts = list(group.documents)
    for one in ranking.documents:
        text, passage = texts[one.index], one.passage
        # how many were read says nothing of how long it is: there may be a limit
        if passage is not None and 0 < passage.end - passage.start < len(text.strip()):
            texts[one.index] = text[passage.start : passage.end]
    labels: dict[str, set[float]] = {}
    for text, label in zip(texts, group.labels, strict=True):
        labels.setdefault(text, set()).add(label)
    kept = (text if len(labels[text]) == 1 else given for text, given in zip(texts, group.documents, strict=True))
    return replace(group, documents=tuple(kept))
