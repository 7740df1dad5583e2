"""Keep transformers from printing while we load or save, and leave its settings to others as they were."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Loading changes torch's default dtype and device for a moment, and the progress-bar switch is global: one at a time.
_ONE_AT_A_TIME = threading.RLock()


class _WithoutReports(logging.Filter):
    """Drops the load report of one thread: its content becomes our errors and warnings."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or "LOAD REPORT" not in str(record.msg)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Run a block without transformers' progress bars and load report; blocks of other threads wait."""
    reports, filtered = logging.getLogger("transformers.modeling_utils"), _WithoutReports()
    with _ONE_AT_A_TIME, _without_bars():
        reports.addFilter(filtered)
        try:
            yield
        finally:
            reports.removeFilter(filtered)


@contextmanager
def _without_bars() -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
    from transformers.utils import logging as switches

    if not switches.is_progress_bar_enabled():
        yield
        return
    downloads_without = are_progress_bars_disabled()
    switches.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        switches.enable_progress_bar()  # type: ignore[no-untyped-call]
        # transformers' switch flips the hub client's too.
        if downloads_without:
            disable_progress_bars()
