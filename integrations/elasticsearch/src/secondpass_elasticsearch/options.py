"""Options that the commands share."""

from __future__ import annotations

import os
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from secondpass.errors import InvalidInput

Index = Annotated[str, typer.Argument(help="Name of the index.", show_default=False)]
Url = Annotated[
    str | None,
    typer.Option("--url", help="The server, without credentials; else ELASTICSEARCH_URL, else http://localhost:9200."),
]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each answer.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the requests, secrets as ***, and send none.")]
InferenceId = Annotated[str, typer.Option("--id", help="Name of the inference endpoint.")]
KEY = "SECONDPASS_API_KEY"
DEMO = "secondpass/demo"


class First(StrEnum):
    """What makes the first pass."""

    bm25 = "bm25"
    dense = "dense"
    hybrid = "hybrid"


class Similarity(StrEnum):
    """How embeddings are compared."""

    cosine = "cosine"
    dot_product = "dot_product"
    l2_norm = "l2_norm"
    max_inner_product = "max_inner_product"


def corpus_path(given: Path) -> Path:
    """The path as given, or the small corpus that comes with the package."""
    return Path(str(files("secondpass"))) / "demo" if given.as_posix() == DEMO and not given.exists() else given


def service_key() -> str | None:
    """The service's API key out of SECONDPASS_API_KEY, None if it is not set.

    Raises:
        InvalidInput: the key has a character that no HTTP header takes.
    """
    key = os.environ.get(KEY, "").strip() or None
    if key is not None and not (key.isascii() and key.isprintable()):
        raise InvalidInput(f"{KEY} holds a character that no HTTP header takes")
    return key
