"""quiet: transformers prints nothing while we work, and others find its settings as they left them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging as switches

from secondpass.persistence.loading import LoadRequest, load
from secondpass.persistence.quiet import quiet_transformers

REPORTS = logging.getLogger("transformers.modeling_utils")


def _switch(shown: bool) -> None:
    switch: Callable[[], None] = switches.enable_progress_bar if shown else switches.disable_progress_bar
    switch()


def test_loading_prints_nothing(tiny_folder: str, capfd: pytest.CaptureFixture[str]) -> None:
    """No progress bar and no load report reaches the terminal, where transformers alone would print a bar."""
    _switch(True)
    AutoModelForSequenceClassification.from_pretrained(tiny_folder)
    assert "Loading weights" in capfd.readouterr().err
    load(LoadRequest(tiny_folder))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shown", [True, False])
def test_the_switches_are_given_back(shown: bool) -> None:
    """Progress bars are on or off afterwards as they were before, also after an error."""
    before = switches.is_progress_bar_enabled()
    _switch(shown)
    with quiet_transformers():
        assert not switches.is_progress_bar_enabled()
    with pytest.raises(KeyError), quiet_transformers():
        raise KeyError
    assert switches.is_progress_bar_enabled() == shown
    assert REPORTS.filters == []
    _switch(before)


def test_bars_of_downloads_stay_off() -> None:
    """A caller who switched off only the hub client's bars still has them off."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    _switch(True)
    disable_progress_bars()
    with quiet_transformers():
        pass
    assert are_progress_bars_disabled()
    enable_progress_bars()


def test_only_load_reports_of_this_thread_are_dropped(caplog: pytest.LogCaptureFixture) -> None:
    """Other messages pass, and so do the reports of other threads."""
    with quiet_transformers():
        REPORTS.warning("LOAD REPORT of ours")
        REPORTS.warning("a deprecation")
        other = threading.Thread(target=REPORTS.warning, args=("LOAD REPORT of another",))
        other.start()
        other.join()
    REPORTS.warning("LOAD REPORT later")
    assert caplog.messages == ["a deprecation", "LOAD REPORT of another", "LOAD REPORT later"]


def test_threads_load_the_same_model(tiny_folder: str) -> None:
    """Loads from several threads at once give equal weights and leave the switches as they were."""
    shown = switches.is_progress_bar_enabled()
    made = []
    threads = [
        threading.Thread(target=lambda: made.append(load(LoadRequest(tiny_folder)).model.state_dict()))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 4
    assert all(weights[key].equal(made[0][key]) for weights in made for key in made[0])
    assert switches.is_progress_bar_enabled() == shown
