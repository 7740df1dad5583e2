"""What a model is taught by: losses over scored groups, by name or object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.training.losses.loss import Loss, chosen
from secondpass.training.losses.pointwise import MSE, BinaryCrossEntropy, CrossEntropy
from secondpass.training.losses.ranking import (
    ADRMSE,
    MILNCE,
    CachedInfoNCE,
    InfoNCE,
    KLDistillation,
    LabelledDistillation,
    LambdaLoss,
    ListMLE,
    ListNet,
    MarginMSE,
    PListMLE,
    RankNet,
)

# ---- Losses by name: what settings and the command line choose from.
LOSSES: Mapping[str, type[Any]] = {
    "binary_cross_entropy": BinaryCrossEntropy,
    "cross_entropy": CrossEntropy,
    "mse": MSE,
    "margin_mse": MarginMSE,
    "ranknet": RankNet,
    "lambda_loss": LambdaLoss,
    "listnet": ListNet,
    "listmle": ListMLE,
    "p_listmle": PListMLE,
    "adr_mse": ADRMSE,
    "kl_distillation": KLDistillation,
    "info_nce": InfoNCE,
    "cached_info_nce": CachedInfoNCE,
    "mil_nce": MILNCE,
    "labelled_distillation": LabelledDistillation,
}
"""Every one a frozen dataclass whose fields are its options, and a `Loss`."""


def make_loss(loss: str | Loss, options: Mapping[str, Any]) -> Loss:
    """Return the loss of that name, made with `options`; an object as it is.

    Args:
        loss: a name of `LOSSES` in any case, with or without hyphens and underscores, or an object.
        options: keyword arguments of the named loss; none for an object.

    Raises:
        InvalidInput: an unknown name or option, with the nearest known one; an option out of its range; a class, or an
            object that is no `Loss`; an object with options.
    """
    if not isinstance(loss, str):
        return _given(loss, options)
    name = chosen(loss, LOSSES, "loss")
    known = [field.name for field in fields(LOSSES[name])]
    for option in options:
        if option not in known:
            _unknown(name, option, known)
    made: Loss = LOSSES[name](**options)
    return made


def _given(loss: Loss, options: Mapping[str, Any]) -> Loss:
    if isinstance(loss, type):
        raise InvalidInput(f"loss is the class {loss.__name__}: give an object of it")
    if not isinstance(loss, Loss):
        lacking = [name for name in ("labels", "shortest", "needs_contrast", "__call__") if not hasattr(loss, name)]
        raise InvalidInput(f"loss is {type(loss).__name__}, no name and no loss: it lacks {', '.join(lacking)}")
    if options:
        raise InvalidInput(f"loss_options={dict(options)!r} are for a loss given by name, not for an object")
    return loss


def _unknown(name: str, option: object, known: list[str]) -> None:
    if not known:
        raise InvalidInput(f"loss_options: {name} has no option, so not {option!r}")
    chosen(option, known, f"loss_options of {name}: option")
    raise InvalidInput(f"loss_options: {name} has no option {option!r}: write it as one of {', '.join(known)}")
