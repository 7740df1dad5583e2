"""devices: which device is picked, and that a wrong one is refused early."""

from __future__ import annotations

import logging

import pytest
import torch

from secondpass.devices import pick_device
from secondpass.errors import InvalidInput


def test_a_name_is_taken_as_it_is() -> None:
    """A requested device is returned, whether it is a name or a torch device."""
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device(torch.device("cpu")) == torch.device("cpu")


def test_none_picks_what_the_machine_has(caplog: pytest.LogCaptureFixture) -> None:
    """Without a request the accelerator wins over the CPU, and the choice is logged at INFO."""
    with caplog.at_level(logging.INFO, logger="secondpass.devices"):
        device = pick_device(None)
    expected = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert expected is not None
    assert device.type == expected.type
    assert caplog.messages == [f"Use pytorch device: {device}"]


def test_a_requested_device_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Only a choice made for the caller is news."""
    with caplog.at_level(logging.INFO, logger="secondpass.devices"):
        pick_device("cpu")
    assert caplog.messages == []


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "the fast one"])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    """A string torch does not know raises InvalidInput that repeats it."""
    with pytest.raises(InvalidInput, match="device") as caught:
        pick_device(name)
    assert repr(name) in str(caught.value)


def test_an_absent_device_is_refused() -> None:
    """A device this machine lacks is refused when it is named, not at the first batch."""
    with pytest.raises(InvalidInput, match=r"cuda:99.* not available"):
        pick_device("cuda:99")


def test_another_type_is_refused() -> None:
    """A number is not guessed to be a GPU."""
    with pytest.raises(InvalidInput, match="device is int"):
        pick_device(0)  # type: ignore[arg-type]
