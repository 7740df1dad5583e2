"""What a folder says about pooling and length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secondpass.errors import ModelLoadError
from secondpass.training.negatives.pooling import longest_of, pooling_of


def folder_with(path: Path, pooling: dict[str, object] | None, *modules: str) -> Path:
    """A folder of a bi-encoder, without weights."""
    kinds = ["Transformer", "Pooling", *modules]
    entries = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (path / "modules.json").write_text(json.dumps(entries))
    if pooling is not None:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return path


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "first"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "first"),
    ],
)
def test_reads_old_and_new_settings(tmp_path, pooling, expected):
    """As sentence-transformers 2 to 6 write them."""
    folder = folder_with(tmp_path, pooling, "Normalize")
    assert pooling_of(folder, folder, {}) == expected


@pytest.mark.parametrize(
    ("pooling", "modules", "words"),
    [
        ({"pooling_mode_max_tokens": True}, (), r"pooling \['max'\] is neither"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, (), "is neither"),
        ({"pooling_mode": "lasttoken"}, (), "'lasttoken' is neither"),
        ({"pooling_mode": "mean"}, ("Dense",), "Dense after its transformer"),
        (None, (), "say pooling='mean' or 'first'"),
    ],
)
def test_refuses_other_vectors(tmp_path, pooling, modules, words):
    """A model whose vectors would be wrong is refused rather than searched with."""
    folder = folder_with(tmp_path, pooling, *modules)
    with pytest.raises(ModelLoadError, match=words):
        pooling_of(folder, folder, {})


def test_a_folder_that_says_nothing(tmp_path):
    """A plain transformers folder is pooled by the mean and has no limit of its own."""
    assert pooling_of(tmp_path, tmp_path, {}) == "mean"
    assert longest_of(tmp_path) == 10**9


def test_length_and_broken_files(tmp_path):
    """The length is read; a file that is no JSON, or another JSON value, is named."""
    file = tmp_path / "sentence_bert_config.json"
    file.write_text('{"max_seq_length": 256}')
    assert longest_of(tmp_path) == 256
    for broken in ("{", "[]"):
        file.write_text(broken)
        with pytest.raises(ModelLoadError, match=r"sentence_bert_config\.json"):
            longest_of(tmp_path)
