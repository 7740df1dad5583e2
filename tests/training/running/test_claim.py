"""One training at a time; the rest is in `test_fitting`."""

from __future__ import annotations

import pytest
import torch

from secondpass.errors import CheckpointError, InvalidInput, SecondPassError
from secondpass.training.running.claim import claimed, make_folder, trainable_weights


def test_one_at_a_time(own_tiny):
    """A second claim is refused, and after an error the model scores again."""
    with claimed(own_tiny):
        own_tiny.model.train()
        with pytest.raises(SecondPassError, match="already"), claimed(own_tiny):
            pass
    assert not own_tiny.model.training
    with pytest.raises(KeyError), claimed(own_tiny):
        raise KeyError
    assert not own_tiny.model.training
    assert own_tiny.training_thread is None


def test_a_closed_encoder_is_refused(own_tiny):
    """There is nothing to train."""
    own_tiny.close()
    with pytest.raises(SecondPassError, match="closed"), claimed(own_tiny):
        pass


def test_weights_that_cannot_be_trained(own_tiny):
    """All frozen, or too coarse."""
    for weight in own_tiny.model.parameters():
        weight.requires_grad_(False)
    with pytest.raises(InvalidInput, match="frozen"):
        trainable_weights(own_tiny.model)
    for weight in own_tiny.model.parameters():
        weight.requires_grad_(True)
    assert len(trainable_weights(own_tiny.model)) == len(list(own_tiny.model.parameters()))
    with pytest.raises(InvalidInput, match="float16"):
        trainable_weights(own_tiny.model.to(torch.float16))


def test_folder(tmp_path):
    """Made with its parents; a file in its place is named."""
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    make_folder(None)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="output_dir"):
        make_folder(tmp_path / "file", "output_dir")
