"""Can a score be read as a probability of relevance: reliability diagram, calibration error and Brier score.

The expected calibration error is that of Naeini, Cooper and Hauskrecht 2015, "Obtaining Well Calibrated Probabilities
Using Bayesian Binning", over bins of equal width.
"""

from __future__ import annotations

import numpy as np

from secondpass.errors import InvalidInput
from secondpass.evaluation.findings import Reliability
from secondpass.evaluation.libraries import scikit_metrics
from secondpass.evaluation.qrels import Qrels
from secondpass.evaluation.runs import Run
from secondpass.evaluation.scores import scored_pairs


def reliability(qrels: Qrels, run: Run, bins: int = 10) -> Reliability | None:
    """Compare scores with the share of relevant documents among those that have them.

    Over all pairs of judged queries that have a score; unjudged documents count as not relevant.

    Args:
        qrels: the judgements.
        run: the rankings with their scores.
        bins: how many intervals of equal width [0, 1] is cut into.

    Returns:
        None where there is no score, or one lies outside [0, 1] and so is no probability.

    Raises:
        InvalidInput: bins is less than 1.
        MissingExtra: scikit-learn is not installed.
    """
    if bins < 1:
        raise InvalidInput(f"bins={bins!r} is less than 1")
    pairs = scored_pairs(qrels, run)
    scores = pairs.scores
    if not len(scores) or pairs.beyond or scores.min() < 0 or scores.max() > 1:
        return None
    metrics = scikit_metrics()
    from sklearn.calibration import calibration_curve

    relevant = pairs.relevant.astype(int)
    shares, means = calibration_curve(relevant, scores, pos_label=1, n_bins=bins)
    # calibration_curve keeps the sizes of its bins to itself: these are the same bins, less the empty ones.
    sizes = np.bincount(np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], scores))
    sizes = sizes[sizes > 0]
    return Reliability(
        mean_scores=tuple(means.tolist()),
        shares_relevant=tuple(shares.tolist()),
        sizes=tuple(sizes.tolist()),
        error=float(np.average(np.abs(shares - means), weights=sizes)),
        brier=float(metrics.brier_score_loss(relevant, scores, pos_label=1)),
    )
