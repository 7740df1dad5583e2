"""The Haystack component that reads a corpus. YAML names this module: its name is public API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from haystack import Document, component
from haystack_integrations.common.secondpass.model_lifecycle import in_thread

from secondpass.corpora import CorpusDocument, RecordKeys, read_corpus
from secondpass.errors import InvalidInput
from secondpass.text import checked, choice, positive_int

__all__ = ["CorpusReader"]

TITLE_PLACES = ("content", "meta")


@component
class CorpusReader:
    """Reads BEIR folders and files of documents, with the ids that they have there and every other key as `meta`.

    A component hands over its documents as one list, so the whole corpus is in memory, and once more in every
    component that copies it: `max_documents` is the limit. Larger corpora are streamed by `secondpass elasticsearch
    index` and `secondpass opensearch index`.

    ### Usage example

    ```python
    from haystack_integrations.components.converters.secondpass import CorpusReader

    documents = CorpusReader().run(sources=["beir/scifact", "more.jsonl.gz"])["documents"]
    ```
    """

    def __init__(
        self,
        *,
        title: str = "content",
        max_documents: int = 100_000,
        id_field: str | None = None,
        title_field: str | None = None,
        text_field: str | None = None,
    ) -> None:
        """Create the component; nothing is read.

        :param title: Where a document's title goes: "content" puts it before the text and a space (BEIR's convention),
            so that every retriever and ranker reads it; "meta" leaves it in `meta["title"]`.
        :param max_documents: Refuse to read more than this in one run, all sources together.
        :param id_field: The key of the id in JSON Lines, where it is neither "_id" nor "id".
        :param title_field: The key of the title, where it is not "title".
        :param text_field: The key of the text, where it is neither "text" nor "contents".

        :raises ValueError:
            If `title` is neither of the two or `max_documents` is no positive number.
        """
        self.title = choice(title, TITLE_PLACES, "title")
        self.max_documents = positive_int(max_documents, "max_documents")
        self.id_field = None if id_field is None else checked(id_field, "id_field")
        self.title_field = None if title_field is None else checked(title_field, "title_field")
        self.text_field = None if text_field is None else checked(text_field, "text_field")

    @property
    def keys(self) -> RecordKeys:
        """Which keys of a JSON object are not metadata."""
        return RecordKeys(self.id_field, self.title_field, self.text_field)

    @component.output_types(documents=list[Document])
    def run(self, sources: list[str | Path]) -> dict[str, Any]:
        """Read corpora.

        :param sources: BEIR folders, JSON Lines files (.gz too) of objects with "_id", "text" and perhaps "title",
            .tsv files of ids and texts, or "secondpass/demo" for the small corpus that comes with the package.
        :returns:
            A dictionary with the following key:
            - `documents`: The documents in the order of the files.

        :raises ValueError:
            If a file is not there, a line of it is refused, an id comes twice or there are too many documents.
        """
        if isinstance(sources, str | Path):
            raise InvalidInput("sources is one path, not a list of them")
        places: dict[str, str] = {}
        documents: list[Document] = []
        for source in sources:
            for found in read_corpus(Path(source), self.keys):
                if found.id in places:
                    raise InvalidInput(f"{source}: id {found.id!r} is in {places[found.id]} too")
                if len(documents) == self.max_documents:
                    raise InvalidInput(
                        f"{source}: more than max_documents={self.max_documents} documents; "
                        "stream them with `secondpass elasticsearch index` or `secondpass opensearch index`"
                    )
                places[found.id] = str(source)
                documents.append(self.document(found))
        return {"documents": documents}

    run_async = in_thread(run)

    def document(self, found: CorpusDocument) -> Document:
        """Make the document of one line of a corpus, its title where `title` says, its other keys in `meta`.

        Raises:
            InvalidInput: the title is to be in `meta`, where the line has another "title".
        """
        if self.title == "content":
            return Document(id=found.id, content=found.content, meta=dict(found.meta))
        if "title" in found.meta:
            raise InvalidInput(f'document {found.id!r} has a "title" beside its {self.title_field}')
        title = {"title": found.title} if found.title else {}
        return Document(id=found.id, content=found.text, meta={**title, **found.meta})
