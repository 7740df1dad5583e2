"""`secondpass export`: a model as one ONNX file for other runtimes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from secondpass.cli import arguments
from secondpass.cli.output import print_json


def export(
    model: Annotated[str, typer.Argument(help="Folder or hub name of the model.", show_default=False)],
    out: Annotated[str, typer.Argument(help="Folder that gets the file; made if needed.", show_default=False)],
    *,
    max_length: arguments.MaxLength = None,
    as_json: arguments.JsonObject = False,
) -> None:
    """Write a model as one ONNX file with free batch and length, for runtimes without torch.

    In the folder are model.onnx (float32, logits), tokenizer.json and config.json. It is written only when onnxruntime
    gives our scores with it. Encoders under a classification head or a module chain can be exported, decoders cannot.
    Needs the extra onnx.

    [bold]Examples[/bold]

    secondpass export secondpass/pocket pocket-onnx

    secondpass export models/ettin models/ettin/onnx
    """
    encoder = arguments.load(model, max_length, "cpu", "fp32")
    made = encoder.export_onnx(out)
    size = sum(file.stat().st_size for file in made.path.parent.glob(f"{made.path.name}*")) / 1e6
    if as_json:
        print_json({"megabytes": size, **asdict(made)})
        return
    typer.echo(
        f"{made.path}: {size:.1f} MB, inputs {', '.join(made.inputs)}; logits of {made.pairs} sample pairs differ from "
        f"ours by {made.difference:.1e} at most"
    )
