"""One number per document out of a head with several labels, by an explicit rule."""

from __future__ import annotations

from typing import Literal

import torch

from secondpass.errors import InvalidInput
from secondpass.outputs import in_blocks

Relevance = int | Literal["expected"]


def checked_relevance(rule: object, num_labels: int) -> Relevance:
    """Return `rule` if it fits a head of `num_labels`.

    Raises:
        InvalidInput: no rule at all for several labels, or one that names no label of this head.
    """
    if rule == "expected":
        return "expected"
    if isinstance(rule, int) and not isinstance(rule, bool) and 0 <= rule < num_labels:
        return rule
    if rule is None:
        raise InvalidInput(
            "CrossEncoder.rank() only works for models with num_labels=1. Consider using CrossEncoder.predict() with "
            f"input pairs instead. To rank by one of the {num_labels} labels of this model or by the expected grade, "
            "say relevance=<label index> or relevance='expected'."
        )
    raise InvalidInput(f"relevance={rule!r} is neither 'expected' nor a label index below {num_labels}")


def relevance_logits(logits: torch.Tensor, rule: Relevance) -> torch.Tensor:
    """float32 [documents, labels] -> [documents].

    A label index gives the log-odds of that label against all others, so that the sigmoid of the result is the
    softmax probability of the label (for two labels: the difference of the logits, as monoBERT ranks).
    "expected" gives the expected grade, labels taken as grades 0, 1, 2, ...
    """
    return in_blocks(_expected if rule == "expected" else lambda labels: _log_odds(labels, rule), logits.T)[0]


def _expected(labels: torch.Tensor) -> torch.Tensor:
    grades = torch.arange(len(labels), dtype=labels.dtype)
    return (torch.softmax(labels, dim=0) * grades[:, None]).sum(0, keepdim=True)


def _log_odds(labels: torch.Tensor, label: int) -> torch.Tensor:
    others = torch.cat([labels[:label], labels[label + 1 :]])
    return labels[label : label + 1] - torch.logsumexp(others, dim=0, keepdim=True)
