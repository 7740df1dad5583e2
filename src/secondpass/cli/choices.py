"""Options that every scoring command has, and the model they lead to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from secondpass import precision as precisions

if TYPE_CHECKING:
    from secondpass.cross_encoder import CrossEncoder

POCKET = "secondpass/pocket"

Model = Annotated[
    str, typer.Option("--model", "-m", help="Folder or hub name of a cross-encoder; the default is in the package.")
]
MaxLength = Annotated[
    int | None, typer.Option(min=1, help="Tokens of a pair at most; by default what the model allows.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Pairs scored together at most.")]
Device = Annotated[
    str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps; by default the best there is.")
]
PRECISION_HELP = "How exactly to compute: fp32, bf16, int8 or auto; by default what the model recommends, else fp32."
Precision = Annotated[precisions.Precision | None, typer.Option(help=PRECISION_HELP)]


def load(
    model: str, max_length: int | None, device: str | None, precision: precisions.Precision | None = None
) -> CrossEncoder:
    """Load a model for a command; torch is imported only now, so that --help answers at once.

    Raises:
        ModelLoadError: it cannot be had.
        InvalidInput: the length, the device or the precision is refused.
    """
    from secondpass.cross_encoder import CrossEncoder

    return CrossEncoder(model, max_length=max_length, device=device, precision=precision)
