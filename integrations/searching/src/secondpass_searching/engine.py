"""One of the two engines, as far as messages and request bodies have its own words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine calls things.

    Attributes:
        title: its name in messages, "Elasticsearch".
        command: `secondpass COMMAND`.
        vector_type, length_key: type of a field of embeddings, and where its mapping says how long they are.
        analysed_key: the highlighter's setting that stops it before the index's own limit.
        login: what to set in the environment to log in.
        authority: variable that names the file of the authority behind the server's certificate.
    """

    title: str
    command: str
    vector_type: str
    length_key: str
    analysed_key: str
    login: str
    authority: str

    def at(self, address: str) -> str:
        """A server or index in a message: "Elasticsearch http://127.0.0.1:9200/articles"."""
        return f"{self.title} {address}"
