"""Rules of `benchmarks.inference.models`: every folder is one that all libraries load."""

from __future__ import annotations

from pathlib import Path

import pytest
from sentence_transformers import CrossEncoder

from benchmarks.inference.models import SPREAD, write_model
from secondpass.forwards.precision import SAMPLE_DOCUMENTS, SAMPLE_QUERIES


@pytest.mark.parametrize("name", ["l2", "deberta"])
def test_a_random_model_tells_documents_apart(name: str, tmp_path: Path) -> None:
    """In sentence-transformers too: its logits are spread as wide as was wanted."""
    write_model(name, tmp_path / name)
    model = CrossEncoder(str(tmp_path / name), device="cpu")
    scores = model.predict(
        list(zip(SAMPLE_QUERIES, SAMPLE_DOCUMENTS, strict=True)), activation_fn=lambda logits: logits
    )
    assert scores.std() == pytest.approx(SPREAD, rel=0.1)


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    """With the names there are."""
    with pytest.raises(ValueError, match="l2, l6, l12, base, deberta"):
        write_model("l3", tmp_path)
