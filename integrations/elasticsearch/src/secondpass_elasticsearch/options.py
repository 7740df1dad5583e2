"""Options that Elasticsearch alone has."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

InferenceId = Annotated[str, typer.Option("--id", help="Name of the inference endpoint.")]


class Similarity(StrEnum):
    """How embeddings are compared."""

    cosine = "cosine"
    dot_product = "dot_product"
    l2_norm = "l2_norm"
    max_inner_product = "max_inner_product"
