"""libraries: scikit-learn and scipy come late, and their absence is told with a remedy."""

from __future__ import annotations

import subprocess
import sys

import pytest

from secondpass.errors import MissingExtra
from secondpass.evaluation.libraries import scikit_metrics, scipy_stats


@pytest.mark.parametrize(("function", "module"), [(scikit_metrics, "sklearn.metrics"), (scipy_stats, "scipy.stats")])
def test_a_missing_library_is_an_extra_to_install(function, module, monkeypatch):
    """Without the library the error says what to install; with it the module comes back."""
    assert function().__name__ == module
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r'pip install "secondpass\[eval\]"'):
        function()


PROGRAM = """
import sys
import secondpass.evaluation as evaluation
assert set(evaluation.__all__) <= set(dir(evaluation))
evaluation.CEBinaryAccuracyEvaluator([["a", "b"]], [1]), evaluation.CERerankingEvaluator
print(*{name.split(".")[0] for name in sys.modules} & {"torch", "transformers", "sklearn", "scipy", "ir_measures"})
"""


def test_importing_the_package_loads_no_heavy_library():
    """Importing the evaluators, and making one, loads neither torch nor scikit-learn."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=90, check=True)
    assert done.stdout.split() == []
