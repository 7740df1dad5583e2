"""The entry point of `secondpass evaluate --pipeline`: nothing heavy is imported before it is called."""

from __future__ import annotations

from haystack_integrations.common.secondpass.search.quiet_haystack import need_haystack

from secondpass.evaluation.dataset_runs import DatasetRequest, DatasetRuns


def run_dataset(request: DatasetRequest) -> DatasetRuns:
    """Index a BEIR folder into a pipeline and run its judged queries through both passes.

    Raises:
        InvalidInput: a file is refused, or the pipeline has no second pass.
        MissingExtra: Haystack is not installed.
        SecondPassError: a component failed on a query; what was answered before is kept in OUTPUT.partial.
    """
    need_haystack()
    from haystack_integrations.common.secondpass.search.dataset_passes import both_passes

    return both_passes(request)
