"""What a model is taught by: losses over scored groups, by name or object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from secondpass.errors import InvalidInput
from secondpass.training.losses import pointwise, ranking
from secondpass.training.losses.loss import Loss, chosen

LOSSES: Mapping[str, type[Any]] = {
    "binary_cross_entropy": pointwise.BinaryCrossEntropy,
    "cross_entropy": pointwise.CrossEntropy,
    "mse": pointwise.MSE,
    "margin_mse": ranking.MarginMSE,
    "ranknet": ranking.RankNet,
    "lambda_loss": ranking.LambdaLoss,
    "listnet": ranking.ListNet,
    "listmle": ranking.ListMLE,
    "p_listmle": ranking.PListMLE,
    "adr_mse": ranking.ADRMSE,
    "kl_distillation": ranking.KLDistillation,
    "info_nce": ranking.InfoNCE,
    "cached_info_nce": ranking.CachedInfoNCE,
    "mil_nce": ranking.MILNCE,
    "labelled_distillation": ranking.LabelledDistillation,
}
"""What settings and the command line choose from, every one a `Loss` and a frozen dataclass of its options."""


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
            if not known:
                raise InvalidInput(f"loss_options: {name} has no option, so not {option!r}")
            chosen(option, known, f"loss_options of {name}: option")
            raise InvalidInput(f"loss_options: {name} has no option {option!r}: write it as one of {', '.join(known)}")
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
