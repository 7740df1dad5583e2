"""The losses once more: plain loops over one group at a time, as in the papers, in double precision.

Each function takes the logits and labels of a group without padding and returns its units in the order of the loops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, permutations
from math import exp, log, log2, sqrt

import numpy as np

Reference = Callable[[np.ndarray, np.ndarray], list[float]]


def of_all(reference: Reference, groups: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Units of all groups, one after the other."""
    return np.array([unit for logits, labels in groups for unit in reference(logits, labels)])


def sigmoid(number: float) -> float:
    """Logistic function."""
    return 1 / (1 + exp(-number))


def softmax(numbers: np.ndarray) -> np.ndarray:
    """Exponentials over their sum."""
    return np.array([exp(number) / sum(exp(other) for other in numbers) for number in numbers])


def binary_cross_entropy(weight: float) -> Reference:
    """Weight of the positive term; 1 is none."""
    return lambda logits, labels: [
        -(weight * label * log(sigmoid(logit)) + (1 - label) * log(1 - sigmoid(logit)))
        for logit, label in zip(logits, labels, strict=True)
    ]


def cross_entropy(weights: tuple[float, ...]) -> Reference:
    """Weights of the classes."""
    return lambda logits, labels: [
        -weights[int(label)] * log(softmax(row)[int(label)]) for row, label in zip(logits, labels, strict=True)
    ]


def mse(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Squared errors."""
    return [(logit - label) ** 2 for logit, label in zip(logits, labels, strict=True)]


def margin_mse(pairs: str) -> Reference:
    """Which documents are compared: all, or one with the others."""

    def reference(logits: np.ndarray, labels: np.ndarray) -> list[float]:
        one = 0 if pairs == "first" else list(labels).index(max(labels))
        others = [(one, other) for other in range(len(labels)) if other != one]
        chosen = combinations(range(len(labels)), 2) if pairs == "all" else others
        return [((logits[i] - logits[j]) - (labels[i] - labels[j])) ** 2 for i, j in chosen]

    return reference


def unequal(labels: np.ndarray) -> Iterator[tuple[int, int]]:
    """Give the pairs of which the first has the higher label."""
    return ((i, j) for i, j in permutations(range(len(labels)), 2) if labels[i] > labels[j])


def ranknet(sigma: float) -> Reference:
    """Steepness."""
    return lambda logits, labels: [log(1 + exp(-sigma * (logits[i] - logits[j]))) for i, j in unequal(labels)]


def gains(labels: np.ndarray, k: int | None) -> list[float]:
    """2^label - 1 over the largest DCG."""
    ideal = sorted(labels, reverse=True)[:k]
    largest = sum((2**label - 1) / log2(1 + rank) for rank, label in enumerate(ideal, start=1))
    return [(2**label - 1) / largest for label in labels]


def ranks(logits: np.ndarray) -> list[int]:
    """Places by falling logit, from 1; of equal ones the earlier first."""
    order = sorted(range(len(logits)), key=lambda document: -logits[document])
    return [order.index(document) + 1 for document in range(len(logits))]


def lambda_weight(weighting: str, gain: list[float], rank: list[int], mu: float) -> Callable[[int, int], float]:
    """Weight of the pair i, j."""

    def lambda_rank(i: int, j: int) -> float:
        return abs(1 / log2(1 + rank[i]) - 1 / log2(1 + rank[j])) * abs(gain[i] - gain[j])

    def ndcg_loss2(i: int, j: int) -> float:
        apart = abs(rank[i] - rank[j])
        return abs(1 / log2(1 + apart) - 1 / log2(1 + apart + 1)) * abs(gain[i] - gain[j])

    return {
        "none": lambda i, j: 1.0,
        "lambda_rank": lambda_rank,
        "ndcg_loss2": ndcg_loss2,
        "ndcg_loss2++": lambda i, j: lambda_rank(i, j) + mu * ndcg_loss2(i, j),
        "ndcg_loss1": lambda i, j: gain[i] / log2(1 + rank[i]),
    }[weighting]


def lambda_loss(weighting: str, k: int | None = None, sigma: float = 1.0, mu: float = 10.0) -> Reference:
    """Name of the weighting, and its numbers."""

    def reference(logits: np.ndarray, labels: np.ndarray) -> list[float]:
        if len(set(labels)) < 2:
            return []
        gain, rank = gains(labels, k), ranks(logits)
        weight = lambda_weight(weighting, gain, rank, mu)
        every = list(permutations(range(len(labels)), 2))
        pairs = every if weighting == "ndcg_loss1" else unequal(labels)
        return [
            -weight(i, j) * log2(sigmoid(sigma * (logits[i] - logits[j])))
            for i, j in pairs
            if k is None or rank[i] <= k or rank[j] <= k
        ]

    return reference


def listnet(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Cross-entropy of two softmaxes."""
    if len(labels) < 2:
        return []
    shares = zip(softmax(labels), softmax(logits), strict=True)
    return [-sum(wanted * log(got) for wanted, got in shares)]


def kl_distillation(temperature: float) -> Reference:
    """T of both softmaxes."""

    def reference(logits: np.ndarray, labels: np.ndarray) -> list[float]:
        if len(labels) < 2:
            return []
        shares = zip(softmax(labels / temperature), softmax(logits / temperature), strict=True)
        return [temperature**2 * sum(wanted * log(wanted / got) for wanted, got in shares)]

    return reference


def draws(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Minus the log-likelihoods of one draw after the other, by falling label; of equal ones the earlier first."""
    order = sorted(range(len(labels)), key=lambda document: -labels[document])
    found = [logits[document] for document in order]
    return [-log(exp(found[at]) / sum(exp(rest) for rest in found[at:])) for at in range(len(found))]


def listmle(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Sum over the draws."""
    return [sum(draws(logits, labels))] if len(set(labels)) > 1 else []


def p_listmle(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Weighted sum over the draws."""
    if len(set(labels)) < 2:
        return []
    weights = [2 ** (len(labels) - place) - 1 for place in range(1, len(labels) + 1)]
    return [sum(weight * draw for weight, draw in zip(weights, draws(logits, labels), strict=True)) / sum(weights)]


def adr_mse(alpha: float) -> Reference:
    """Steepness of the smoothed rank."""

    def reference(logits: np.ndarray, labels: np.ndarray) -> list[float]:
        found = []
        for i, (logit, label) in enumerate(zip(logits, labels, strict=True)):
            others = [j for j in range(len(labels)) if j != i]
            tied = sorted(place for place, other in enumerate(sorted(labels, reverse=True), start=1) if other == label)
            rank = sum(tied) / len(tied)
            smooth = 1 + sum(sigmoid(alpha * (logits[j] - logit)) for j in others)
            found.append((rank - smooth) ** 2 / log2(rank + 1))
        return found if len(labels) > 1 else []

    return reference


def info_nce(temperature: float) -> Reference:
    """T of the softmax."""

    def reference(logits: np.ndarray, labels: np.ndarray) -> list[float]:
        negatives = [exp(logit / temperature) for logit, label in zip(logits, labels, strict=True) if label == 0]
        positives = [exp(logit / temperature) for logit, label in zip(logits, labels, strict=True) if label > 0]
        return [-log(one / (one + sum(negatives))) for one in positives] if negatives else []

    return reference


ROOT = sqrt(2)


def mil_nce(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Any of the relevant documents."""
    if not 0 < sum(labels > 0) < len(labels):
        return []
    shares = softmax(logits)
    return [-log(sum(share for share, label in zip(shares, labels, strict=True) if label > 0))]


def labelled_distillation(logits: np.ndarray, labels: np.ndarray) -> list[float]:
    """Without a teacher: any of the relevant documents, if there is one."""
    if len(labels) < 2:
        return []
    return mil_nce(logits, labels) or [0.0]


def taught(
    logits: np.ndarray, labels: np.ndarray, scores: np.ndarray, weight: float, label_weight: float, margin: float
) -> float:
    """One list with a teacher's scores."""
    count = len(labels)
    divergence = sum(p * log(p / q) for p, q in zip(softmax(scores), softmax(logits), strict=True))
    student, teacher = logits - sum(logits) / count, scores - sum(scores) / count
    error = sum((s - t) ** 2 for s, t in zip(student, teacher, strict=True)) / count
    return weight * (divergence + margin * error) + label_weight * labelled_distillation(logits, labels)[0]


REFERENCES: dict[str, tuple[dict[str, object], Reference]] = {
    "binary_cross_entropy": ({"pos_weight": 2.5}, binary_cross_entropy(2.5)),
    "cross_entropy": ({"weights": [0.5, 2.0, 1.0]}, cross_entropy((0.5, 2.0, 1.0))),
    "mse": ({}, mse),
    "margin_mse": ({}, margin_mse("all")),
    "ranknet": ({"sigma": ROOT}, ranknet(ROOT)),
    "lambda_loss": ({}, lambda_loss("ndcg_loss2++")),
    "listnet": ({}, listnet),
    "listmle": ({}, listmle),
    "p_listmle": ({}, p_listmle),
    "adr_mse": ({"alpha": ROOT}, adr_mse(ROOT)),
    "kl_distillation": ({"temperature": ROOT}, kl_distillation(ROOT)),
    "info_nce": ({"temperature": ROOT}, info_nce(ROOT)),
    "cached_info_nce": ({"temperature": ROOT}, info_nce(ROOT)),
    "mil_nce": ({}, mil_nce),
    "labelled_distillation": ({}, labelled_distillation),
}
"""By the name of the loss: options, and what it then is."""
