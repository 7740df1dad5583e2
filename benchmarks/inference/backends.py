"""sentence-transformers' ONNX and OpenVINO backends, FlashRank's and fastembed's way, in an interpreter of their own.

optimum needs an older transformers than sentence-transformers 6, so these run where both are installed:

    python3 -m venv backends
    backends/bin/pip install "sentence-transformers==5.7.0" "transformers==4.57.6" "torch==2.13.0" datasets \
        "optimum-onnx[onnxruntime]==0.1.0" optimum-intel openvino nncf

FlashRank (one batch of everything, padded to the longest, on an int8 model) and fastembed (batches of 64 as they come,
float32) are their algorithms on an export of the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.inference.machine import processor
from benchmarks.inference.worker import Contender, Place, Scorer, answer_forever

MAX_LENGTH = 512
CALIBRATION = 128  # pairs
_LOADED: dict[tuple[str, str, str], Any] = {}


def make(contender: Contender, place: Place) -> Scorer:
    """Load or export what the contender needs."""
    import torch

    torch.set_num_threads(place.threads)
    if contender.way in ("flashrank", "fastembed"):
        return by_session(contender, place)
    key = (contender.way, contender.precision, place.folder)
    if key not in _LOADED:
        _LOADED[key] = _onnx(contender, place) if contender.way == "onnx" else _openvino(contender, place)
    model, batch = _LOADED[key], contender.batch

    def score(query: str, documents: Sequence[str]) -> list[float]:
        pairs = [(query, document) for document in documents]
        logits = model.predict(pairs, batch_size=batch, activation_fn=torch.nn.Identity(), show_progress_bar=False)
        return [float(value) for value in logits]

    return score


def _encoder(folder: Path | str, backend: str, **model_kwargs: Any) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(
        str(folder), backend=backend, device="cpu", max_length=MAX_LENGTH, model_kwargs=model_kwargs or None
    )


def _onnx_folder(place: Place) -> Path:
    """The model exported in float32, and quantised dynamically as sentence-transformers' documentation says."""
    folder = Path(place.scratch) / "onnx"
    if not folder.exists():
        from sentence_transformers import export_dynamic_quantized_onnx_model

        model = _encoder(place.folder, "onnx", provider="CPUExecutionProvider", export=True)
        model.save_pretrained(str(folder))
        instructions: Any = "avx512_vnni" if "avx512_vnni" in processor()["flags"] else "avx2"
        export_dynamic_quantized_onnx_model(model, instructions, str(folder), file_suffix="int8")
    return folder


def _onnx(contender: Contender, place: Place) -> Any:
    name = "onnx/model_int8.onnx" if contender.precision == "int8" else "onnx/model.onnx"
    return _encoder(_onnx_folder(place), "onnx", provider="CPUExecutionProvider", file_name=name)


def _openvino_folder(place: Place) -> Path:
    folder = Path(place.scratch) / "openvino"
    if not folder.exists():
        _encoder(place.folder, "openvino", export=True).save_pretrained(str(folder))
    return folder


def _openvino(contender: Contender, place: Place) -> Any:
    """float32, bfloat16, or static int8 (SmoothQuant, NNCF's transformer preset) with bfloat16 for the rest."""
    folder = _openvino_folder(place)
    hint = "f32" if contender.precision == "fp32" else "bf16"
    config = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": str(place.threads)}
    name = "openvino/openvino_model.xml"
    if contender.precision == "int8":
        name = "openvino/openvino_model_int8.xml"
        if not (folder / name).exists():
            _quantise(folder, name, Path(place.calibration))
    return _encoder(folder, "openvino", file_name=name, ov_config=config)


def _quantise(folder: Path, name: str, calibration: Path) -> None:
    """Post-training quantisation, calibrated on pairs that are not measured."""
    # not for the type checker, whose interpreter has neither
    nncf, openvino = import_module("nncf"), import_module("openvino")
    model = _encoder(folder, "openvino", file_name="openvino/openvino_model.xml")
    pairs = json.loads(calibration.read_text(encoding="utf-8"))[:CALIBRATION]
    wanted = {output.get_any_name() for output in model.model.model.inputs}

    def inputs() -> Iterator[dict[str, Any]]:
        for query, document in pairs:
            found = model.tokenizer(query, document, truncation=True, max_length=MAX_LENGTH, return_tensors="np")
            yield {key: value for key, value in found.items() if key in wanted}

    quantised = nncf.quantize(
        openvino.Core().read_model(str(folder / "openvino" / "openvino_model.xml")),
        nncf.Dataset(list(inputs())),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(pairs),
    )
    openvino.save_model(quantised, str(folder / name), compress_to_fp16=False)


def by_session(contender: Contender, place: Place) -> Scorer:
    """A plain onnxruntime session over a tokenizer that pads each batch to its longest pair."""
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer

    folder = _onnx_folder(place)
    int8 = contender.precision == "int8"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = place.threads
    path = folder / "onnx" / ("model_int8.onnx" if int8 else "model.onnx")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(Path(place.folder) / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH)
    tokenizer.enable_padding()
    names = {given.name for given in session.get_inputs()}

    def score(query: str, documents: Sequence[str]) -> list[float]:
        size = len(documents) if contender.way == "flashrank" else contender.batch
        logits: list[float] = []
        for start in range(0, len(documents), size):
            found = tokenizer.encode_batch([(query, text) for text in documents[start : start + size]])
            columns = {
                "input_ids": [one.ids for one in found],
                "token_type_ids": [one.type_ids for one in found],
                "attention_mask": [one.attention_mask for one in found],
            }
            given = {name: np.array(rows, dtype=np.int64) for name, rows in columns.items() if name in names}
            logits += session.run(None, given)[0][:, 0].tolist()
        return logits

    return score


if __name__ == "__main__":
    answer_forever(make)
